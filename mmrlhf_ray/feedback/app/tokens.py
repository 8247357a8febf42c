"""Names and comparison of the secrets that browsers send."""

import hmac

from fastapi import Request

SESSION_COOKIE = "mmrlhf_session"
LOGIN_COOKIE = "mmrlhf_login"
"""Holds the CSRF secret of the login form, for which there is no session yet."""
FORM_TYPES = ("application/x-www-form-urlencoded", "multipart/form-data")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def same(given: str, wanted: str) -> bool:
    """Compare secrets in constant time; "" is never the same."""
    return bool(wanted) and hmac.compare_digest(given.encode(), wanted.encode())


def secure_cookies(request: Request) -> bool:
    """Cookies travel over https only, unless the browser speaks to its own machine, where there is nothing to hear."""
    return request.url.scheme == "https" or request.url.hostname not in _LOOPBACK
