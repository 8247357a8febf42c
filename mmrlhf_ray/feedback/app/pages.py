"""The pages that people work in."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse
from sqlalchemy.orm import Session

from mmrlhf_ray.config import FeedbackConfig, Language, ProjectConfig
from mmrlhf_ray.feedback.app.access import AsAnnotator
from mmrlhf_ray.feedback.app.api import InProject
from mmrlhf_ray.feedback.app.language import LANGUAGES, Words, words_of
from mmrlhf_ray.feedback.app.markdown import in_language
from mmrlhf_ray.feedback.app.places import places
from mmrlhf_ray.feedback.app.state import AppState, State
from mmrlhf_ray.feedback.app.templating import TEMPLATES
from mmrlhf_ray.feedback.app.turns import Shown, shown_responses, turns
from mmrlhf_ray.feedback.app.views import episode_media, media_json
from mmrlhf_ray.feedback.app.wording import SKIP_WORDS, WORDINGS
from mmrlhf_ray.feedback.collect import queue
from mmrlhf_ray.feedback.collect.accounts import Caller
from mmrlhf_ray.feedback.collect.media_files import find_media
from mmrlhf_ray.feedback.collect.own_work import last_vote, undone_answer, waiting
from mmrlhf_ray.feedback.collect.progress import progress
from mmrlhf_ray.feedback.collect.projects import (
    Standing,
    find_project,
    names_for,
    need,
    rules_of,
    standings,
    title_of,
    votes_left,
)
from mmrlhf_ray.feedback.collect.suggestions import show_suggestion
from mmrlhf_ray.feedback.collect.tables import Item
from mmrlhf_ray.feedback.questions import QUICK, question_of

router = APIRouter()


def render(
    request: Request, config: FeedbackConfig, template: str, context: Mapping[str, Any], status: int = 200
) -> Response:
    """A page in the language that the request wants; every template has `title`, `words` and `back` alongside what
    `context` holds."""
    words = words_of(request)
    # A page that answers a form cannot be asked for again.
    back = f"{request.url.path}?{request.url.query}" if request.method == "GET" else "/"
    common = {"title": config.title, "words": words, "languages": LANGUAGES, "back": back}
    common |= {"arena": config.arena is not None}
    return TEMPLATES[words.language].TemplateResponse(request, template, {**common, **context}, status_code=status)


def page(
    request: Request, state: AppState, caller: Caller, template: str, context: Mapping[str, Any], status: int = 200
) -> Response:
    """A page for somebody who is logged in."""
    common = {"caller": caller, "wordings": WORDINGS}
    return render(request, state.config, template, {**common, **context}, status)


@router.get("/")
def home(request: Request, caller: AsAnnotator, state: State) -> Response:
    """One's projects with waiting items, progress and pace."""
    with state.database.read() as session:
        own = [standing for standing in standings(session, caller.id) if standing.project.active]
        names = [standing.project.name for standing in own]
        found = progress(session, caller.id, state.config, state.now(), names)
        left = waiting(session, caller.id, names)
        shown = [_own_project(session, caller, standing, left[standing.project.name], state) for standing in own]
    kinds = Counter[str]()
    for each in left.values():
        kinds.update(each)
    hours = state.config.pace_window_s / 3600
    context = {"here": "home", "progress": found, "waiting": kinds, "hours": hours, "projects": shown}
    context["quick"] = QUICK
    return page(request, state, caller, "home.html", context)


def _own_project(
    session: Session, caller: Caller, standing: Standing, left: Mapping[str, int], state: AppState
) -> dict[str, Any]:
    """A project as Home shows it."""
    name = standing.project.name
    return {
        "name": name,
        "title": title_of(standing.project),
        "role": standing.role,
        "waiting": sum(left.values()),
        "votes_left": votes_left(session, name, standing.rules, caller.id, state.now()),
    }


@router.get("/guide")
def guide(request: Request, caller: AsAnnotator, state: State, project: InProject = "") -> Response:
    """How to judge, and the keys; with the guidelines and aspects of a project, if one is named or there is but one."""
    language = words_of(request).language
    with state.database.read() as session:
        own = [standing for standing in standings(session, caller.id) if standing.project.active]
        chosen = need(session, caller.id, project, "annotator") if project else own[0] if len(own) == 1 else None
    rules = ProjectConfig() if chosen is None else chosen.rules
    context = {
        "here": "guide",
        "aspects": shown_aspects(rules.in_force(state.config), language),
        "guidelines": in_language(rules.guidelines, language) or state.guidelines_in(language),
        "project": chosen and {"name": chosen.project.name, "title": title_of(chosen.project)},
        "projects": [{"name": each.project.name, "title": title_of(each.project)} for each in own],
    }
    return page(request, state, caller, "guide.html", context)


@router.get("/work")
def work(request: Request, caller: AsAnnotator, state: State, project: InProject = "") -> Response:
    """The item that the caller holds, or the next one: of a project, or of all that are theirs."""
    address = "/work?" + urlencode({"project": project}) if project else "/work"
    context: dict[str, Any] = {"here": "work", "reasons": SKIP_WORDS, "address": address, "chosen": project}
    context["quick"] = QUICK
    with state.database.write() as session:
        leased = queue.lease_next(session, caller.id, state.config, state.now(), project=project)
        if leased is not None:
            found = find_project(session, leased.item.project)
            context["project"] = {"name": found.name, "title": title_of(found)}
            rules = rules_of(found).in_force(state.config)
            media = media_json(session, leased.item.media_ids)
            previous = undone_answer(session, caller.id, leased.item.id, leased.order_shown)
            suggestion = show_suggestion(session, caller.id, leased, state.config, state.now())
            answers = shown_responses(
                [leased.item.responses[index] for index in leased.order_shown],
                episode_media(session, leased.item),
                words_of(request),
            )
            context |= question_context(leased.item, answers, media, rules, words_of(request), previous)
            context["item"]["suggestion"] = suggestion and suggestion["answer"]
            context["suggested_by"] = suggestion and suggestion["source"]
        context["last_vote"] = last_vote(session, caller.id)
        names = names_for(session, caller.id, "annotator", project)
        context["progress"] = progress(session, caller.id, state.config, state.now(), names)
    return page(request, state, caller, "work.html", context)


@router.get("/media/{sha256}")
def media_file(sha256: str, caller: AsAnnotator, state: State) -> FileResponse:
    """Media, in ranges too, under their content type as it was told from the bytes; they never change under this
    address."""
    with state.database.read() as session:
        row, path = find_media(session, state.config, sha256)
    # Private: for this browser only, as the next person at it may have no account.
    headers = {"cache-control": "private, max-age=3600, immutable"}
    return FileResponse(path, media_type=row.mime, headers=headers, content_disposition_type="inline")


def question_context(
    item: Item,
    answers: Sequence[Shown],
    media: list[dict[str, str]],
    config: FeedbackConfig,
    words: Words,
    previous: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Variables of the question's part of a page; `config` is that of the item's project. `item` there is also what the
    script gets: nothing that tells who wrote a response, or in which order they are stored."""
    shown = turns(item.messages, media, words)
    return {
        "item": {
            "item_id": item.id,
            "question": item.question,
            "responses": [answer.text for answer in answers],
            "aspects": [aspect.name for aspect in config.aspects],
            "previous": previous,
        },
        "aspects": shown_aspects(config, words.language),
        "wording": WORDINGS[item.question],
        "template": question_of(item.question).template,
        "turns": shown,
        "answers": answers,
        "places": places(shown, len(answers), words),
        "max_chars": config.max_text_chars,
    }


def shown_aspects(config: FeedbackConfig, language: Language) -> list[dict[str, str]]:
    """Name, heading and description of each aspect, in a language."""
    return [
        {
            "name": aspect.name,
            "heading": aspect.headings.get(language, aspect.name.capitalize()),
            "description": aspect.descriptions.get(language, aspect.description),
        }
        for aspect in config.aspects
    ]
