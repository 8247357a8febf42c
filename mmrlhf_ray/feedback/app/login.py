"""Logging in and out with a browser."""

from typing import Annotated

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import RedirectResponse

from mmrlhf_ray.errors import FeedbackError
from mmrlhf_ray.feedback.app.access import SESSION_COOKIE, Anybody, AsAnyAccount, same
from mmrlhf_ray.feedback.app.language import words_of
from mmrlhf_ray.feedback.app.pages import render
from mmrlhf_ray.feedback.app.state import AppState, State
from mmrlhf_ray.feedback.collect.accounts import csrf_of, log_in, log_out, new_secret
from mmrlhf_ray.feedback.errors import N_, Refused, TooMany

router = APIRouter()
_LOGIN_COOKIE = "mmrlhf_login"
"""Holds the CSRF secret of the login form, for which there is no session yet."""
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_MAX_TOKEN = 200


@router.get("/login", dependencies=[Anybody])
def login_page(request: Request, state: State) -> Response:
    """The form that asks for the token."""
    return _form(request, state)


@router.post("/login", dependencies=[Anybody])
def login(
    request: Request, state: State, token: Annotated[str, Form()] = "", csrf: Annotated[str, Form()] = ""
) -> Response:
    """Start a browser session."""
    secret = request.cookies.get(_LOGIN_COOKIE, "")
    if not same(csrf, csrf_of(secret) if secret else ""):
        return _form(request, state, Refused(N_("the page was out of date; try again")), 403)
    address = request.client.host if request.client else ""
    try:
        with state.database.write() as session:
            cookie = log_in(session, token.strip()[:_MAX_TOKEN], address, state.config, state.now())
    except TooMany as error:
        return _form(request, state, error, 429)
    if cookie is None:
        return _form(request, state, Refused(N_("this token is not valid; ask an administrator for another one")), 403)
    response = RedirectResponse("/", status_code=303)
    keep_session(response, request, state, cookie)
    response.delete_cookie(_LOGIN_COOKIE)
    return response


@router.post("/logout")
def logout(request: Request, state: State, caller: AsAnyAccount) -> Response:
    """End this browser session."""
    with state.database.write() as session:
        log_out(session, request.cookies.get(SESSION_COOKIE, ""), caller, state.now())
    response = RedirectResponse("/login", status_code=303)
    response.delete_cookie(SESSION_COOKIE)
    return response


def keep_session(response: Response, request: Request, state: AppState, cookie: str) -> None:
    """Have the browser keep a session's cookie."""
    seconds = int(state.config.session_hours * 3600)
    response.set_cookie(
        SESSION_COOKIE, cookie, max_age=seconds, httponly=True, samesite="strict", secure=secure_cookies(request)
    )


def _form(request: Request, state: State, problem: FeedbackError | None = None, status: int = 200) -> Response:
    """The page, with a secret of this browser that the form must bring back."""
    secret = request.cookies.get(_LOGIN_COOKIE) or new_secret()
    said = words_of(request).error(problem) if problem else ""
    provider = state.config.oidc and state.config.oidc.label
    context = {"csrf": csrf_of(secret), "problem": said, "provider": provider}
    response = render(request, state.config, "login.html", context, status)
    response.set_cookie(
        _LOGIN_COOKIE, secret, max_age=3600, httponly=True, samesite="strict", secure=secure_cookies(request)
    )
    return response


def secure_cookies(request: Request) -> bool:
    """Cookies travel over https only, unless the browser speaks to its own machine, where there is nothing to hear."""
    return request.url.scheme == "https" or request.url.hostname not in _LOOPBACK
