"""/api for annotators: the same queue that the pages use."""

from dataclasses import asdict
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse
from pydantic import Field

from mmrlhf_ray.feedback.app.access import AsAnnotator
from mmrlhf_ray.feedback.app.body import Message, body_as
from mmrlhf_ray.feedback.app.state import State
from mmrlhf_ray.feedback.app.views import leased_json
from mmrlhf_ray.feedback.collect import queue
from mmrlhf_ray.feedback.collect.progress import progress
from mmrlhf_ray.feedback.collect.projects import config_in, names_for
from mmrlhf_ray.feedback.collect.suggestions import show_suggestion
from mmrlhf_ray.feedback.errors import Invalid

router = APIRouter(prefix="/api")

ItemId = Annotated[str, Field(min_length=1, max_length=64)]
InProject = Annotated[str, Query(max_length=40, description="Name of a project; all of the caller's if none is given.")]
DAY_MS = 86_400_000


class VoteMessage(Message):
    """A vote. `vote_id` is a UUID that the client makes once per vote and keeps when it sends the vote again."""

    vote_id: Annotated[str, Field(min_length=32, max_length=36)]
    item_id: ItemId
    answer: dict[str, Any]
    milliseconds: Annotated[int, Field(ge=0, le=DAY_MS)] = 0


class SkipMessage(Message):
    item_id: ItemId
    reason: Annotated[str, Field(max_length=40)]
    comment: Annotated[str, Field(max_length=2000)] = ""


@router.post("/lease")
def lease(caller: AsAnnotator, state: State, project: InProject = "") -> Response:
    """The item to answer next: 200 with the item, or 204 where there is nothing to do."""
    with state.database.write() as session:
        leased = queue.lease_next(session, caller.id, state.config, state.now(), project=project)
        if leased is None:
            return Response(status_code=204)
        suggestion = show_suggestion(session, caller.id, leased, state.config, state.now())
        rules = config_in(session, leased.item.project, state.config)
        return JSONResponse(leased_json(session, leased, suggestion, rules))


@router.post("/votes")
def vote(caller: AsAnnotator, state: State, message: Annotated[VoteMessage, body_as(VoteMessage)]) -> Response:
    """Store a vote: 201, or 200 with the same body where it was stored before. It is on the disk when this answers."""
    with state.database.write() as session:
        recorded = queue.submit(session, caller.id, new_vote(message), state.config, state.now())
    return JSONResponse(_recorded_json(recorded), 200 if recorded.repeated else 201)


@router.post("/votes/{vote_id}/undo")
def undo(vote_id: str, caller: AsAnnotator, state: State) -> Response:
    """Take back the last vote; its item is the next one again."""
    with state.database.write() as session:
        recorded = queue.undo(session, caller.id, uuid_text(vote_id), state.config, state.now())
    return JSONResponse(_recorded_json(recorded))


@router.post("/votes/{vote_id}/change")
def change(
    vote_id: str, caller: AsAnnotator, state: State, message: Annotated[VoteMessage, body_as(VoteMessage)]
) -> Response:
    """Put another answer in the place of an older vote of one's own: 201, or 200 where that was done before."""
    with state.database.write() as session:
        old = uuid_text(vote_id)
        recorded = queue.change(session, caller.id, old, new_vote(message), state.config, state.now())
    return JSONResponse(_recorded_json(recorded), 200 if recorded.repeated else 201)


@router.post("/skip")
def skip(caller: AsAnnotator, state: State, message: Annotated[SkipMessage, body_as(SkipMessage)]) -> Response:
    """Give the item back for good."""
    with state.database.write() as session:
        queue.skip(session, caller.id, message.item_id, message.reason, message.comment, state.now())
    return JSONResponse({"item_id": message.item_id, "skipped": True})


@router.get("/progress")
def show_progress(caller: AsAnnotator, state: State, project: InProject = "") -> Response:
    """How far the collection is, and how fast: in one project, or in all that the caller has a part in."""
    with state.database.read() as session:
        names = names_for(session, caller.id, "annotator", project)
        return JSONResponse(asdict(progress(session, caller.id, state.config, state.now(), names)))


def new_vote(message: VoteMessage) -> queue.NewVote:
    """Raises Invalid for a vote_id that is no UUID."""
    return queue.NewVote(uuid_text(message.vote_id), message.item_id, message.answer, message.milliseconds)


def uuid_text(text: str) -> str:
    """A UUID in its usual spelling. Raises Invalid."""
    try:
        return str(UUID(text))
    except ValueError as error:
        raise Invalid("expected a UUID", "vote_id") from error


def _recorded_json(recorded: queue.Recorded) -> dict[str, Any]:
    return {"vote_id": recorded.vote_id, "item_id": recorded.item_id, "undone": recorded.undone}
