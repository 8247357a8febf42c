"""Errors to answers: JSON {"error", "field"} for programs, a redirect or a short page for browsers."""

import logging

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException

from mmrlhf_ray.errors import FeedbackError
from mmrlhf_ray.feedback import errors
from mmrlhf_ray.feedback.app.language import words_of
from mmrlhf_ray.feedback.app.pages import render
from mmrlhf_ray.feedback.errors import N_
from mmrlhf_ray.feedback.questions import AnswerError

STATUS: dict[type[Exception], int] = {
    errors.NoAccount: 401,
    errors.Refused: 403,
    errors.Unknown: 404,
    errors.Conflict: 409,
    errors.Gone: 410,
    errors.TooLarge: 413,
    errors.Invalid: 422,
    errors.TooMany: 429,
    errors.Unanswered: 502,
    AnswerError: 422,
}
_PROGRAMS = ("/api/", "/media/", "/healthz", "/metrics")
_DATABASE = (OperationalError, InterfaceError, PoolTimeout)
_ROUTING = {404: N_("there is no such page"), 405: N_("this page does not take that")}
_log = logging.getLogger("uvicorn.error")


def add_handlers(app: FastAPI) -> None:
    """Every error of ours, of FastAPI and of routing; what is left is a fault of the server and answered 500."""
    for kind in STATUS:
        app.add_exception_handler(kind, _ours)
    for kind in _DATABASE:
        app.add_exception_handler(kind, _unreachable)
    app.add_exception_handler(RequestValidationError, _unreadable)
    app.add_exception_handler(HTTPException, _routing)


def answer(request: Request, status: int, problem: str, field: str = "") -> Response:
    """The answer to a request that failed."""
    headers = {"www-authenticate": "Bearer"} if status == 401 else None
    if request.url.path.startswith(_PROGRAMS):
        return JSONResponse({"error": problem} | ({"field": field} if field else {}), status, headers)
    if status == 401:
        return RedirectResponse("/login", status_code=303)
    said = {"problem": problem, "status": status}
    return render(request, request.app.state.feedback.config, "problem.html", said, status)


async def _ours(request: Request, error: Exception) -> Response:
    assert isinstance(error, FeedbackError | AnswerError)
    said = words_of(request).error(error) if isinstance(error, FeedbackError) else error.problem
    return answer(request, STATUS[type(error)], said, error.field)


async def _unreachable(request: Request, error: Exception) -> Response:
    """Nothing was stored. The next connection is a new one, so that clients only need to send the request again."""
    _log.error("the database does not answer: %s", error)
    said = words_of(request).say(N_("the database does not answer; nothing was stored, send it again"))
    response = answer(request, 503, said)
    response.headers["retry-after"] = "1"
    return response


async def _unreadable(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return answer(request, 422, str(first["msg"]), ".".join(str(part) for part in first["loc"][1:]))


async def _routing(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return answer(request, error.status_code, words_of(request).say(_ROUTING.get(error.status_code, str(error.detail))))
