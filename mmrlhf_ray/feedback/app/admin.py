"""/api for administrators: media, accounts, exports, deletion."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from mmrlhf_ray.feedback.app.access import AsAdmin, AsAnyAccount, AsProjectAdmin
from mmrlhf_ray.feedback.app.api import InProject
from mmrlhf_ray.feedback.app.body import Message, body_as
from mmrlhf_ray.feedback.app.state import AppState, State
from mmrlhf_ray.feedback.collect import accounts
from mmrlhf_ray.feedback.collect.erase import erase_annotator, personal_data
from mmrlhf_ray.feedback.collect.export import annotation_rows, parse_time, prompt_rows
from mmrlhf_ray.feedback.collect.export_files import json_row, prompt_json
from mmrlhf_ray.feedback.collect.media_files import store_media
from mmrlhf_ray.feedback.collect.projects import names_for
from mmrlhf_ray.feedback.collect.suggestions import suggestion_rows
from mmrlhf_ray.feedback.collect.tables import Annotator, note
from mmrlhf_ray.feedback.errors import Invalid

router = APIRouter(prefix="/api")


class AnnotatorMessage(Message):
    name: Annotated[str, Field(min_length=1, max_length=80)]
    role: Annotated[str, Field(max_length=16)] = "annotator"


class RoleMessage(Message):
    role: Annotated[str, Field(max_length=16)]


async def _bytes(request: Request) -> bytes:
    return await request.body()


@router.put("/media/{sha256}")
def put_media(
    sha256: str, caller: AsAnyAccount, state: State, data: Annotated[bytes, Depends(_bytes)], kind: str | None = None
) -> Response:
    """Upload an image, a sound or a clip: 201, or 200 where it was there. `?kind=` for containers that hold either.
    For clients, and whoever may add items."""
    with state.database.write() as session:
        if caller.role != "client":
            names_for(session, caller.id, "admin")
        new = store_media(session, state.config, sha256, data, kind)
    return JSONResponse({"media_id": sha256, "url": f"/media/{sha256}"}, 201 if new else 200)


@router.get("/export")
def export(
    caller: AsProjectAdmin,
    state: State,
    format: str = "annotations",
    since: str | None = None,
    project: InProject = "",
) -> Response:
    """JSON lines: `format=annotations` (rows of the ANNOTATION table), `prompts` or `suggestions`; `since` an ISO 8601
    time. Of one project, or of all that the caller administers."""
    if format not in _EXPORTS:
        raise Invalid(f"expected one of {', '.join(_EXPORTS)}, got {format[:40]!r}", "format")
    after = None if since is None else parse_time(since)
    with state.database.write() as session:
        names = names_for(session, caller.id, "admin", project)
        note(session, state.now(), caller.id, "export", format, " ".join(filter(None, (project, since))))
    return StreamingResponse(_lines(state, _EXPORTS[format], after, names), media_type="application/x-ndjson")


@router.get("/annotators")
def list_annotators(caller: AsAdmin, state: State) -> Response:
    """All accounts, closed ones included."""
    with state.database.read() as session:
        rows = session.scalars(select(Annotator).order_by(Annotator.created, Annotator.id))
        return JSONResponse([_annotator_json(row) for row in rows])


@router.post("/annotators")
def post_annotator(
    caller: AsAdmin, state: State, message: Annotated[AnnotatorMessage, body_as(AnnotatorMessage)]
) -> Response:
    """A new account: 201 with its token, which is not shown again."""
    with state.database.write() as session:
        row, token = accounts.add_annotator(session, message.name, message.role, caller.id, state.now())
        return JSONResponse(_annotator_json(row) | {"token": token}, 201)


@router.put("/annotators/{annotator_id}/role")
def put_role(
    annotator_id: str, caller: AsAdmin, state: State, message: Annotated[RoleMessage, body_as(RoleMessage)]
) -> Response:
    """Give an account another role."""
    with state.database.write() as session:
        row = accounts.set_role(session, annotator_id, message.role, caller.id, state.now())
        return JSONResponse(_annotator_json(row))


@router.post("/annotators/{annotator_id}/token")
def post_token(annotator_id: str, caller: AsAdmin, state: State) -> Response:
    """A new token in place of a lost one."""
    with state.database.write() as session:
        return JSONResponse({"token": accounts.new_token(session, annotator_id, caller.id, state.now())}, 201)


@router.delete("/annotators/{annotator_id}")
def delete_annotator(annotator_id: str, caller: AsAdmin, state: State) -> Response:
    """Close an account; its votes stay."""
    with state.database.write() as session:
        return JSONResponse(_annotator_json(accounts.remove_annotator(session, annotator_id, caller.id, state.now())))


@router.get("/annotators/{annotator_id}/data")
def get_data(annotator_id: str, caller: AsAdmin, state: State) -> Response:
    """Everything that is stored about one annotator."""
    with state.database.write() as session:
        return JSONResponse(personal_data(session, annotator_id, caller.id, state.now()))


@router.delete("/annotators/{annotator_id}/data")
def delete_data(annotator_id: str, caller: AsAdmin, state: State) -> Response:
    """Delete everything that one annotator did, and close the account."""
    with state.database.write() as session:
        erased = erase_annotator(session, annotator_id, caller.id, state.now())
    return JSONResponse({"votes": erased.votes, "reviews": erased.reviews, "skips": erased.skips})


def _annotator_json(row: Annotator) -> dict[str, Any]:
    return {
        "id": row.id,
        "name": row.name,
        "role": row.role,
        "active": row.active,
        "created": row.created.isoformat(),
    }


def _annotations(session: Session, since: datetime | None, projects: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    return map(json_row, annotation_rows(session, since, projects=projects))


def _prompts(session: Session, since: datetime | None, projects: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    return (prompt_json(session, row) for row in prompt_rows(session, projects))


def _suggestions(session: Session, since: datetime | None, projects: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    return suggestion_rows(session, projects)


_Export = Callable[[Session, datetime | None, Sequence[str]], Iterator[Mapping[str, Any]]]
_EXPORTS: Mapping[str, _Export] = {"annotations": _annotations, "prompts": _prompts, "suggestions": _suggestions}


def _lines(state: AppState, rows: _Export, since: datetime | None, projects: Sequence[str]) -> Iterator[str]:
    with state.database.read() as session:
        for row in rows(session, since, projects):
            yield json.dumps(row, ensure_ascii=False) + "\n"
