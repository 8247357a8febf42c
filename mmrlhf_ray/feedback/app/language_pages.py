"""The switch of the language, which this browser remembers."""

from typing import Annotated

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import RedirectResponse

from mmrlhf_ray.feedback.app.access import Anybody
from mmrlhf_ray.feedback.app.language import LANGUAGE_COOKIE, LANGUAGES
from mmrlhf_ray.feedback.app.login import secure_cookies
from mmrlhf_ray.feedback.errors import Invalid

router = APIRouter()
_YEAR_S = 365 * 24 * 3600


@router.post("/language", dependencies=[Anybody])
def choose(request: Request, language: Annotated[str, Form()] = "", back: Annotated[str, Form()] = "/") -> Response:
    """Show this page, and all later ones, in another language. Changes nothing else, so it needs no CSRF token."""
    if language not in LANGUAGES:
        raise Invalid(f"expected one of {', '.join(LANGUAGES)}, got {language[:40]!r}", "language")
    ours = back.startswith("/") and not back.startswith(("//", "/\\"))
    response = RedirectResponse(back if ours else "/", status_code=303)
    response.set_cookie(
        LANGUAGE_COOKIE, language, max_age=_YEAR_S, httponly=True, samesite="lax", secure=secure_cookies(request)
    )
    return response
