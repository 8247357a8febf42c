"""/review: items on which annotators disagree, for reviewers to decide."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field

from mmrlhf_ray.feedback.app.access import AsReviewer
from mmrlhf_ray.feedback.app.api import DAY_MS, InProject, ItemId
from mmrlhf_ray.feedback.app.body import Message, body_as
from mmrlhf_ray.feedback.app.language import Words, words_of
from mmrlhf_ray.feedback.app.pages import page, question_context
from mmrlhf_ray.feedback.app.places import region_words
from mmrlhf_ray.feedback.app.state import State
from mmrlhf_ray.feedback.app.turns import shown_responses
from mmrlhf_ray.feedback.app.views import episode_media, media_json
from mmrlhf_ray.feedback.collect import decisions
from mmrlhf_ray.feedback.collect.projects import config_in, names_for
from mmrlhf_ray.feedback.errors import N_

router = APIRouter()


class ReviewMessage(Message):
    """A decision; the answer is about the responses in the order of /review, which is the order stored."""

    item_id: ItemId
    answer: dict[str, Any]
    milliseconds: Annotated[int, Field(ge=0, le=DAY_MS)] = 0


@router.get("/review")
def review(
    request: Request,
    caller: AsReviewer,
    state: State,
    place: Annotated[int, Query(ge=0, le=1_000_000)] = 0,
    project: InProject = "",
) -> Response:
    """The most disputed item, or the one at `place` in the queue, of one project or of all where the caller reviews."""
    words = words_of(request)
    with state.database.read() as session:
        found, count = decisions.to_review(session, names_for(session, caller.id, "reviewer", project), place)
        context: dict[str, Any] = {"here": "review", "count": count, "place": place, "found": found}
        context["project"] = project
        if found is not None:
            answers = shown_responses(found.item.responses, episode_media(session, found.item), words)
            media, rules = (
                media_json(session, found.item.media_ids),
                config_in(session, found.item.project, state.config),
            )
            context |= question_context(found.item, answers, media, rules, words)
            context["pointed"] = [region_words(vote.annotation, context["turns"], words) for vote in found.votes]
            context["choices"] = [choice_words(vote.annotation, words) for vote in found.votes]
    return page(request, state, caller, "review.html", context)


@router.post("/api/reviews")
def post_review(
    caller: AsReviewer, state: State, message: Annotated[ReviewMessage, body_as(ReviewMessage)]
) -> Response:
    """Store a decision, which outweighs the votes: 201, or 200 where it was stored before."""
    with state.database.write() as session:
        new = decisions.decide(
            session, caller.id, message.item_id, message.answer, message.milliseconds, state.config, state.now()
        )
    return JSONResponse({"item_id": message.item_id}, 201 if new else 200)


def choice_words(annotation: decisions.Annotation, words: Words) -> str:
    """A pair's vote in a few words; "" for other kinds."""
    if annotation.kind != "pair":
        return ""
    if len(set(annotation.ranks)) > 1:
        return words.say(N_("Response %(number)s is better"), number=annotation.ranks.index(1) + 1)
    return words.say({"tie": N_("A tie"), "both_bad": N_("Both are bad")}[annotation.choice])
