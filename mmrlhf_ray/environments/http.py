"""An environment server, as OpenEnv has it: over HTTP, or over a WebSocket that is an episode's own.

    reset  {"seed", "episode_id", …}                  → {"observation", "reward", "done"}
    step   {"action": {KEY: text}, "episode_id"}      → the same

A WebSocket carries {"type": "reset" | "step" | "close", "data": …} and {"type": "observation" | "error", "data": …}.
"""

import base64
import binascii
import json
import os
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import httpx

from mmrlhf_ray.config.environment import HttpEnvironment
from mmrlhf_ray.environments.parts import parts_of
from mmrlhf_ray.environments.protocol import EpisodeFailed, Part, Start, Step
from mmrlhf_ray.environments.user import checked_reward
from mmrlhf_ray.schema.tables import MEDIA_KINDS

_SHARE = 0.9
"""Of `call_s` that the server has, so that its silence costs one episode and not the process."""
_SHOWN_CHARACTERS = 200
_WORDS = ("text", "message", "content", "prompt", "result", "output", "observation")
_ASIDE = ("reward", "done", "metadata", "type")
_CLIP_KEYS = {**{kind: kind for kind in MEDIA_KINDS}, "screenshot": "image", "picture": "image", "sound": "audio"}


class _Line(Protocol):
    def ask(self, what: str, body: Mapping[str, Any]) -> dict[str, Any]: ...

    def close(self) -> None: ...


class ServerEnvironment:
    """One episode at a server, with an `episode_id`, cookies and, over a WebSocket, a connection of its own."""

    def __init__(self, config: HttpEnvironment):
        self._config = config
        self._episode = uuid.uuid4().hex
        self._line = connect(config)

    def reset(self, start: Start) -> tuple[Part, ...]:
        """Raises EpisodeFailed, and CannotShow."""
        about = {"prompt_id": start.prompt_id, "task": start.task} if self._config.send_prompt else {}
        if self._config.send_prompt:
            about |= {"messages": json.loads(start.messages), "extras": json.loads(start.extras)}
        body = {"seed": start.seed, **about, **self._config.arguments, "episode_id": self._episode}
        return tuple(observed(self._line.ask("reset", body).get("observation")))

    def step(self, response: str) -> Step:
        """Raises as reset() does."""
        action = {self._config.action_key: response}
        answer = self._line.ask("step", {"action": action, "episode_id": self._episode})
        done = answer.get("done", answer.get("terminated", False) or answer.get("truncated", False))
        return Step(tuple(observed(answer.get("observation"))), checked_reward(answer.get("reward")), bool(done))

    def close(self) -> None:
        """End the connection."""
        self._line.close()


def connect(config: HttpEnvironment) -> _Line:
    """A line to the server. Raises EpisodeFailed."""
    return (_Socket if config.url.startswith("ws") else _Requests)(config)


def token(config: HttpEnvironment) -> dict[str, str]:
    """The header with the token. Raises EpisodeFailed when the environment has none."""
    if config.token_env is None:
        return {}
    found = os.environ.get(config.token_env, "").strip()
    if not found:
        raise EpisodeFailed(f"token_env={config.token_env}, but that environment variable is not set, or is empty")
    return {"Authorization": f"Bearer {found}"}


class _Requests:
    """POST …/reset and …/step."""

    def __init__(self, config: HttpEnvironment):
        self._url = config.url.rstrip("/")
        self._client = httpx.Client(headers=token(config), timeout=_SHARE * config.call_s)

    def ask(self, what: str, body: Mapping[str, Any]) -> dict[str, Any]:
        try:
            response = self._client.post(f"{self._url}/{what}", json=body)
        except httpx.RequestError as error:
            raise EpisodeFailed(f"could not be asked ({type(error).__name__}: {error})") from None
        if not response.is_success:
            raise EpisodeFailed(f"answered HTTP {response.status_code}: {_cut(response.text)}")
        return _object(response.text)

    def close(self) -> None:
        self._client.close()


class _Socket:
    """A WebSocket, which OpenEnv's servers keep an environment for."""

    def __init__(self, config: HttpEnvironment):
        from websockets.exceptions import WebSocketException
        from websockets.sync.client import connect

        self._lost = (WebSocketException, OSError, EOFError)
        self._seconds = _SHARE * config.call_s
        try:
            self._socket = connect(
                config.url, additional_headers=token(config), open_timeout=self._seconds, max_size=None, proxy=None
            )
        except self._lost as error:
            raise EpisodeFailed(f"{config.url} cannot be reached ({type(error).__name__}: {error})") from None

    def ask(self, what: str, body: Mapping[str, Any]) -> dict[str, Any]:
        data = body["action"] if what == "step" else body
        try:
            self._socket.send(json.dumps({"type": what, "data": data}))
            answer = _object(str(self._socket.recv(timeout=self._seconds)))
        except self._lost as error:
            raise EpisodeFailed(f"no answer ({type(error).__name__}: {error})") from None
        inside = answer.get("data")
        if answer.get("type") == "error" or not isinstance(inside, dict):
            raise EpisodeFailed(f"answered {_cut(json.dumps(answer))}")
        return inside

    def close(self) -> None:
        try:
            self._socket.send(json.dumps({"type": "close"}))
            self._socket.close()
        except self._lost as error:
            raise EpisodeFailed(f"{type(error).__name__}: {error}") from None


def observed(value: Any) -> Iterator[Part]:
    """Parts of an observation: text, a data URI, an OpenAI content part, a list of these, or an object.

    Of an object, a list under `content` or `parts` is all that is shown. Otherwise clips are data URIs, and base64
    under a key that names a kind (`image`, `screenshot`, `audio`, `video`, …); what is left is shown as JSON, or as it
    is where it is one text under a usual key.
    """
    if isinstance(value, str):
        clip = _clip(value, None)
        yield from (value,) if clip is None else clip
    elif isinstance(value, list) and any(isinstance(item, str | dict) for item in value):
        for item in value:
            yield from observed(item)
    elif isinstance(value, dict):
        yield from _of_object(value)
    else:
        yield from parts_of(value)


def _of_object(value: Mapping[str, Any]) -> Iterator[Part]:
    inner = next((value[key] for key in ("content", "parts") if isinstance(value.get(key), list)), None)
    if inner is not None:
        yield from observed(inner)
        return
    rest: dict[str, Any] = {}
    kind = value.get("type") if value.get("type") in MEDIA_KINDS else None
    for key, item in value.items():
        clip = _clip(item, kind if key == "data" else _CLIP_KEYS.get(key.removesuffix("_url").removeprefix("input_")))
        if clip is not None:
            yield from clip
        elif key not in _ASIDE and item is not None and not (kind and key in ("mime", "format")):
            rest[key] = item
    if len(rest) == 1 and isinstance(only := next(iter(rest.values())), str) and next(iter(rest)).endswith(_WORDS):
        yield only
    elif rest:
        yield from parts_of(rest)


def _clip(value: Any, kind: str | None) -> tuple[Part, ...] | None:
    """A clip in text; None where it is none. kind: the one that a key names, without which only a data URI is one."""
    if isinstance(value, dict) and kind is not None:  # OpenAI: {"url": …}, {"data", "format"}
        value = value.get("url", value.get("data"))
    if not isinstance(value, str):
        return None
    head, comma, body = value.partition(",")
    if comma and head.startswith("data:") and head.endswith(";base64"):
        kind, value = kind or head.removeprefix("data:").partition("/")[0], body
    if kind not in MEDIA_KINDS:
        return None
    try:
        return parts_of((kind, base64.b64decode(value, validate=True)))
    except binascii.Error:
        return None


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise EpisodeFailed(f"answered {_cut(text)!r}, expected a JSON object")
    return found


def _cut(text: str) -> str:
    return " ".join(text.split())[:_SHOWN_CHARACTERS]


def check_server(config: HttpEnvironment) -> None:
    """Ask whether the server is there: /health, or a connection. Raises EpisodeFailed."""
    if config.url.startswith("ws"):
        connect(config).close()
        return
    address = f"{config.url.rstrip('/')}/health"
    try:
        response = httpx.get(address, headers=token(config), timeout=_SHARE * config.call_s)
    except httpx.RequestError as error:
        raise EpisodeFailed(f"{address} cannot be asked ({type(error).__name__}: {error})") from None
    if response.status_code >= 500 or response.status_code in (401, 403):
        raise EpisodeFailed(f"{address} answered HTTP {response.status_code}: {_cut(response.text)}")
