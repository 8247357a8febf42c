"""/work/many: a page of short questions. Each answer is sent as a vote of its own."""

from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy.orm import Session

from mmrlhf_ray.feedback.app.access import AsAnnotator
from mmrlhf_ray.feedback.app.api import InProject
from mmrlhf_ray.feedback.app.language import words_of
from mmrlhf_ray.feedback.app.pages import page, question_context
from mmrlhf_ray.feedback.app.state import AppState, State
from mmrlhf_ray.feedback.app.turns import shown_responses
from mmrlhf_ray.feedback.app.views import episode_media, media_json
from mmrlhf_ray.feedback.app.wording import SKIP_WORDS, WORDINGS
from mmrlhf_ray.feedback.collect.accounts import Caller
from mmrlhf_ray.feedback.collect.own_work import undone_answer
from mmrlhf_ray.feedback.collect.progress import progress
from mmrlhf_ray.feedback.collect.projects import find_project, names_for, rules_of, title_of
from mmrlhf_ray.feedback.collect.queue import Leased
from mmrlhf_ray.feedback.collect.sheet import lease_sheet

router = APIRouter()


@router.get("/work/many")
def many(
    request: Request,
    caller: AsAnnotator,
    state: State,
    kind: Annotated[str, Query(description="Of the questions: pair or rate.")] = "pair",
    project: InProject = "",
) -> Response:
    """The items that the caller holds and the next ones, of one kind: of a project, or of all that are theirs."""
    address = "/work/many?" + urlencode({"kind": kind} | ({"project": project} if project else {}))
    with state.database.write() as session:
        sheet = lease_sheet(session, caller.id, kind, state.config, state.now(), project=project)
        cards = [_card(request, session, caller, leased, state) for leased in sheet]
        names = names_for(session, caller.id, "annotator", project)
        found = progress(session, caller.id, state.config, state.now(), names)
    context = {
        "here": "work",
        "address": address,
        "chosen": project,
        "cards": cards,
        "progress": found,
        "wording": WORDINGS[kind],
        "reasons": SKIP_WORDS,
    }
    return page(request, state, caller, "sheet.html", context)


def _card(request: Request, session: Session, caller: Caller, leased: Leased, state: AppState) -> dict[str, Any]:
    """One item. No suggestion is shown here: it would be read before one's own judgement."""
    item, words = leased.item, words_of(request)
    project = find_project(session, item.project)
    answers = shown_responses(
        [item.responses[index] for index in leased.order_shown], episode_media(session, item), words
    )
    rules = rules_of(project).in_force(state.config)
    previous = undone_answer(session, caller.id, item.id, leased.order_shown)
    context = question_context(item, answers, media_json(session, item.media_ids), rules, words, previous)
    return context | {"project": {"name": project.name, "title": title_of(project)}}
