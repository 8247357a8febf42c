"""Before and after every request: a cap on its size, and headers that keep browsers from running or sharing things."""

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


class Protection:
    """ASGI middleware; `upload_bytes` caps media, `body_bytes` everything else."""

    def __init__(self, app: ASGIApp, body_bytes: int, upload_bytes: int) -> None:
        self._app, self._body_bytes, self._upload_bytes = app, body_bytes, upload_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        cap = self._upload_bytes if scope["path"].startswith(_MEDIA_PATH) else self._body_bytes
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        taken = 0

        async def capped() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > cap:
                raise too_large(cap)
            return message

        async def protected(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("cache-control", "no-store")
            await send(message)

        if not declared.isdigit() or int(declared) > cap:
            await _refuse(protected, cap)
            return
        await self._app(scope, capped, protected)


def too_large(cap: int) -> TooLarge:
    """The error for a body above the cap."""
    return TooLarge(f"the body has more than {cap} bytes; send less at a time", "body")


async def _refuse(send: Send, cap: int) -> None:
    """Without reading anything."""
    body = b'{"error": "the body has more than %d bytes; send less at a time", "field": "body"}' % cap
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 413, "headers": [*headers, (b"connection", b"close")]})
    await send({"type": "http.response.body", "body": body})
