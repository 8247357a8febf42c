"""/login/oidc: signing in with an OpenID Connect provider."""

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse

from mmrlhf_ray.config import OidcConfig
from mmrlhf_ray.feedback.app.access import Anybody, same
from mmrlhf_ray.feedback.app.login import keep_session, secure_cookies
from mmrlhf_ray.feedback.app.pages import render
from mmrlhf_ray.feedback.app.provider import Attempt, Provider
from mmrlhf_ray.feedback.app.state import AppState, State
from mmrlhf_ray.feedback.collect.identities import sign_in
from mmrlhf_ray.feedback.errors import N_, Refused, Unknown

router = APIRouter()
_COOKIE = "mmrlhf_oidc"
_PATH = "/login/oidc"
_MINUTES = 10


@router.get("/login/oidc", dependencies=[Anybody])
def begin(request: Request, state: State) -> Response:
    """Send the browser to the provider, with secrets that it must bring back."""
    attempt = Attempt.new()
    response = RedirectResponse(Provider(_oidc(state)).address(attempt), status_code=303)
    # Lax: a strict cookie would not come along when the provider sends the browser back.
    response.set_cookie(
        _COOKIE, attempt.cookie, max_age=_MINUTES * 60, path=_PATH, httponly=True, samesite="lax",
        secure=secure_cookies(request),
    )  # fmt: skip
    return response


@router.get("/login/oidc/callback", dependencies=[Anybody])
def callback(
    request: Request, state: State, code: str = "", error: str = "", given: str = Query("", alias="state")
) -> Response:
    """Start a browser session for who comes back from the provider."""
    oidc = _oidc(state)
    attempt = Attempt.of(request.cookies.get(_COOKIE, ""))
    if attempt is None or not same(given, attempt.state):
        raise Refused(N_("this sign-in was not begun in this browser, or too long ago; begin again"))
    if error or not code:
        raise Refused(N_("the provider did not sign you in: %(reason)s"), reason=error[:80] or "code")
    claims = Provider(oidc).claims(code, attempt)
    address = request.client.host if request.client else ""
    with state.database.write() as session:
        cookie = sign_in(session, claims, oidc, address, state.config, state.now())
    # A page, not a redirect: on the way from another site the browser would not send the session's cookie.
    response = render(request, state.config, "signed_in.html", {})
    keep_session(response, request, state, cookie)
    response.delete_cookie(_COOKIE, path=_PATH)
    return response


def _oidc(state: AppState) -> OidcConfig:
    """Raises Unknown where there is none."""
    if state.config.oidc is None:
        raise Unknown(N_("nobody signs in with a provider here; log in with a token"))
    return state.config.oidc
