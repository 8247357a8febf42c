"""Before and after every request: a cap on its size, and headers that keep browsers from running or sharing things."""

import json

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mmrlhf_ray.feedback.errors import TooLarge

_HEADERS = {
    "content-security-policy": "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "media-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
_MEDIA_PATH = "/api/media/"
_MEDIA_FORM = "/arena"


class Protection:
    """ASGI middleware; `upload_bytes` caps media, `body_bytes` everything else."""

    def __init__(self, app: ASGIApp, body_bytes: int, upload_bytes: int) -> None:
        self._app, self._body_bytes, self._upload_bytes = app, body_bytes, upload_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        uploads = scope["path"].startswith(_MEDIA_PATH) or scope["path"] == _MEDIA_FORM
        cap = self._upload_bytes if uploads else self._body_bytes
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        taken, answered = 0, False

        async def capped() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > cap:
                raise too_large(cap)
            return message

        async def protected(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                answered = True
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("cache-control", "no-store")
            await send(message)

        if not declared.isdigit() or int(declared) > cap:
            await _answer(protected, 413, too_large(cap).problem, "body")
            return
        try:
            await self._app(scope, capped, protected)
        except Exception:
            if not answered:  # else an answer without these headers would be made outside of here
                await _answer(protected, 500, "a fault of the server; whoever runs it finds it in its log")
            raise


def too_large(cap: int) -> TooLarge:
    """The error for a body above the cap."""
    return TooLarge(f"the body has more than {cap} bytes; send less at a time", "body")


async def _answer(send: Send, status: int, problem: str, field: str = "") -> None:
    """Without reading anything more."""
    body = json.dumps({"error": problem} | ({"field": field} if field else {})).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*headers, (b"connection", b"close")]})
    await send({"type": "http.response.body", "body": body})
