"""Who may call which route. Every route names one of the dependencies below; a test walks all routes to see to it.

    @router.get("/work")
    def work(caller: AsAnnotator, state: State) -> Response: ...

Programs send `Authorization: Bearer <token>`. Browsers send a session cookie, and the caller's `csrf` as well with
everything that changes something: forms in a hidden field `csrf`, scripts in the header `X-CSRF-Token`.
"""

import hmac
from typing import Annotated

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool

from mmrlhf_ray.feedback.app.state import AppState, app_state
from mmrlhf_ray.feedback.collect.accounts import Caller, by_cookie, by_token
from mmrlhf_ray.feedback.collect.projects import ProjectRole, names_for
from mmrlhf_ray.feedback.collect.tables import Role
from mmrlhf_ray.feedback.errors import N_, NoAccount, Refused

SESSION_COOKIE = "mmrlhf_session"
_FORM_TYPES = ("application/x-www-form-urlencoded", "multipart/form-data")
_SAFE = ("GET", "HEAD")


def same(given: str, wanted: str) -> bool:
    """Compare secrets in constant time; "" is never the same."""
    return bool(wanted) and hmac.compare_digest(given.encode(), wanted.encode())


class Access:
    """The dependency that every route has exactly one of. Without roles anybody may call it."""

    def __init__(self, *roles: Role) -> None:
        self.roles = roles


class Public(Access):
    """For the login page and the like: no account needed."""

    async def __call__(self) -> None:
        return


class Require(Access):
    """For accounts with one of the roles."""

    async def __call__(self, request: Request) -> Caller:
        """The caller. Raises NoAccount; Refused for another role or a missing CSRF token."""
        caller = await _caller(request)
        if caller.role not in self.roles:
            roles = " / ".join(self.roles)
            raise Refused(N_("this takes the role %(roles)s; yours is %(role)s"), roles=roles, role=caller.role)
        return caller


class RequireInProject(Require):
    """For accounts that have this role, or a higher one, in some project; the route looks in which."""

    def __init__(self, least: ProjectRole) -> None:
        super().__init__("annotator", "reviewer", "admin")
        self.least = least

    async def __call__(self, request: Request) -> Caller:
        """The caller. Raises as Require, and Refused where they have no such role."""
        caller = await super().__call__(request)
        await run_in_threadpool(_in_some_project, app_state(request), caller, self.least)
        return caller


async def _caller(request: Request) -> Caller:
    state, authorization = app_state(request), request.headers.get("authorization")
    if authorization is not None:
        scheme, _, token = authorization.partition(" ")
        caller = await run_in_threadpool(_token_caller, state, token.strip()) if scheme.lower() == "bearer" else None
        if caller is None:
            raise NoAccount("the token is not valid; send `Authorization: Bearer <token>`")
        return caller
    cookie = request.cookies.get(SESSION_COOKIE)
    caller = None if cookie is None else await run_in_threadpool(_cookie_caller, state, cookie)
    if caller is None:
        raise NoAccount("log in, or send `Authorization: Bearer <token>`")
    if request.method not in _SAFE and not same(await sent_csrf(request), caller.csrf):
        raise Refused(N_("the page is out of date or not from here; load it again"), "csrf")
    return caller


async def sent_csrf(request: Request) -> str:
    """The CSRF token that came with a request, "" if none did."""
    header = request.headers.get("x-csrf-token")
    if header is not None:
        return header
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() in _FORM_TYPES:
        value = (await request.form()).get("csrf")
        return value if isinstance(value, str) else ""
    return ""


def _token_caller(state: AppState, token: str) -> Caller | None:
    with state.database.read() as session:
        return by_token(session, token)


def _cookie_caller(state: AppState, cookie: str) -> Caller | None:
    with state.database.read() as session:
        return by_cookie(session, cookie, state.now())


def _in_some_project(state: AppState, caller: Caller, least: ProjectRole) -> None:
    with state.database.read() as session:
        names_for(session, caller.id, least)


Anybody = Depends(Public())
AsAnnotator = Annotated[Caller, Depends(Require("annotator", "reviewer", "admin"))]
AsReviewer = Annotated[Caller, Depends(RequireInProject("reviewer"))]
AsProjectAdmin = Annotated[Caller, Depends(RequireInProject("admin"))]
AsAdmin = Annotated[Caller, Depends(Require("admin"))]
AsClient = Annotated[Caller, Depends(Require("client", "admin"))]
AsAnyAccount = Annotated[Caller, Depends(Require("annotator", "reviewer", "admin", "client"))]
