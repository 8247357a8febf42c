"""/votes: what somebody voted, to look at and to change."""

from fastapi import APIRouter, Request, Response

from mmrlhf_ray.feedback.app.access import AsAnnotator
from mmrlhf_ray.feedback.app.language import words_of
from mmrlhf_ray.feedback.app.pages import page, question_context
from mmrlhf_ray.feedback.app.state import State
from mmrlhf_ray.feedback.app.turns import shown_responses
from mmrlhf_ray.feedback.app.views import episode_media, media_json
from mmrlhf_ray.feedback.collect.own_work import own_vote, own_votes
from mmrlhf_ray.feedback.collect.projects import config_in

router = APIRouter()
_LATEST = 100


@router.get("/votes")
def votes(request: Request, caller: AsAnnotator, state: State) -> Response:
    """One's latest votes."""
    with state.database.read() as session:
        cast = own_votes(session, caller.id, _LATEST)
    return page(request, state, caller, "votes.html", {"here": "votes", "cast": cast, "latest": _LATEST})


@router.get("/vote")
def vote(request: Request, caller: AsAnnotator, state: State, id: str = "") -> Response:
    """A vote of one's own as it was asked and answered, to be changed."""
    words = words_of(request)
    with state.database.read() as session:
        cast, item = own_vote(session, caller.id, id)
        asked = [item.responses[index] for index in cast.order_shown]
        answers = shown_responses(asked, episode_media(session, item), words)
        media = media_json(session, item.media_ids)
        rules = config_in(session, item.project, state.config)
        context = question_context(item, answers, media, rules, words, cast.answer)
    context |= {"here": "votes", "vote_id": cast.id}
    return page(request, state, caller, "vote.html", context)
