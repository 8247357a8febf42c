"""/api for applications of a deployed model."""

from typing import Annotated, Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from pydantic import Field

from mmrlhf_ray.feedback.app.access import AsClient
from mmrlhf_ray.feedback.app.body import Message, body_as
from mmrlhf_ray.feedback.app.state import State
from mmrlhf_ray.feedback.collect.deployed import log_event, log_response

router = APIRouter(prefix="/api")
Id = Annotated[str, Field(min_length=1, max_length=64)]


class ResponseMessage(Message):
    """A response that was shown to somebody; `prompt` as a row of data.path, its media uploaded before."""

    response_id: Id
    text: str
    source: Annotated[str, Field(max_length=200)] = ""
    prompt: dict[str, Any]


class EventMessage(Message):
    """Something that was done with a response."""

    event_id: Id
    response_id: Id
    kind: Annotated[str, Field(max_length=40)]
    value: Annotated[dict[str, Any], Field(default_factory=dict)]


@router.post("/responses")
def response(caller: AsClient, state: State, message: Annotated[ResponseMessage, body_as(ResponseMessage)]) -> Response:
    """Store a response: 201, or 200 where it was stored before."""
    with state.database.write() as session:
        new = log_response(
            session, message.response_id, message.text, message.source, message.prompt, state.config, state.now()
        )
    return JSONResponse({"response_id": message.response_id}, 201 if new else 200)


@router.post("/events")
def event(caller: AsClient, state: State, message: Annotated[EventMessage, body_as(EventMessage)]) -> Response:
    """Store an event: 201, or 200 where it was stored before."""
    with state.database.write() as session:
        new = log_event(
            session, message.event_id, message.response_id, message.kind, message.value, state.config, state.now()
        )
    return JSONResponse({"event_id": message.event_id}, 201 if new else 200)
