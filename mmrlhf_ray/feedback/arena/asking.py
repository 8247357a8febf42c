"""Asking two served models the same."""

import asyncio
import logging
import os
import random
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx

from mmrlhf_ray.config.arena import ArenaConfig, ArenaModel
from mmrlhf_ray.data.media import MediaRow
from mmrlhf_ray.feedback.errors import N_, TooMany
from mmrlhf_ray.rewards.http import Endpoint, RequestFailed, post_all
from mmrlhf_ray.rewards.judge import media_part

_ATTEMPTS = 2
_BACKOFF_S = 0.2
_RANDOM = random.SystemRandom()
_log = logging.getLogger("uvicorn.error")


@dataclass(frozen=True)
class Answered:
    """What a model answered, or why it did not."""

    name: str
    text: str = ""
    problem: str = ""


def question(text: str, media: Sequence[MediaRow]) -> list[dict[str, Any]]:
    """Messages of chat completions: the media, then the text."""
    content: str | list[dict[str, Any]] = text
    if media:
        content = [*map(media_part, media), {"type": "text", "text": text}]
    return [{"role": "user", "content": content}]


class Arena:
    """The models, and room for `at_once` questions."""

    def __init__(self, config: ArenaConfig) -> None:
        self.config = config
        self._free = threading.BoundedSemaphore(config.at_once)

    def ask(self, messages: Sequence[Mapping[str, Any]], max_chars: int) -> list[Answered]:
        """The answers of two models that are drawn, after `deadline_s` at most; both are asked at one time.

        Raises TooMany where there is no room.
        """
        if not self._free.acquire(blocking=False):
            raise TooMany(N_("too many questions are being answered at the moment; try again soon"))
        try:
            until = time.monotonic() + self.config.deadline_s
            one = partial(_answered, arena=self.config, messages=messages, max_chars=max_chars, until=until)
            with ThreadPoolExecutor(2) as pool:
                return list(pool.map(one, _RANDOM.sample(self.config.models, 2)))
        finally:
            self._free.release()


def _answered(
    model: ArenaModel, arena: ArenaConfig, messages: Sequence[Mapping[str, Any]], max_chars: int, until: float
) -> Answered:
    try:
        token = _token(model)
        body: dict[str, Any] = {"model": model.model or _only_model(model, token, until), "messages": messages}
        body["max_tokens"] = arena.max_tokens
        if arena.temperature is not None:
            body["temperature"] = arena.temperature
        left = max(until - time.monotonic(), 0.0)
        endpoint = Endpoint(_under(model, "chat/completions"), token, 1, left, _ATTEMPTS, _BACKOFF_S, left)
        (answer,) = post_all(endpoint, [body])
        if isinstance(answer, RequestFailed):
            raise answer
        return Answered(model.name, _text(answer, max_chars))
    except RequestFailed as failure:
        _log.warning("arena: %s %s", model.name, failure)
        return Answered(model.name, problem=str(failure))


def _under(model: ArenaModel, path: str) -> str:
    return f"{model.base_url.rstrip('/')}/{path}"


def _token(model: ArenaModel) -> str | None:
    if model.token_env is None:
        return None
    token = os.environ.get(model.token_env, "").strip()
    if not (token and token.isascii() and token.isprintable()):
        raise RequestFailed(f"has no token: set {model.token_env} where the server is started")
    return token


def _only_model(model: ArenaModel, token: str | None, until: float) -> str:
    """The name of the one model that the endpoint lists."""
    headers = {} if token is None else {"authorization": f"Bearer {token}"}

    async def get() -> httpx.Response:
        async with asyncio.timeout(until - time.monotonic()), httpx.AsyncClient(headers=headers, timeout=None) as http:
            return await http.get(_under(model, "models"))

    try:
        answer = asyncio.run(get())
    except TimeoutError as error:
        raise RequestFailed("did not list its models in time") from error
    except httpx.RequestError as error:
        raise RequestFailed(f"could not be asked ({type(error).__name__}: {error})") from error
    if not answer.is_success:
        raise RequestFailed(f"answered HTTP {answer.status_code} to GET {_under(model, 'models')}")
    try:
        names = [str(entry["id"]) for entry in answer.json()["data"]]
    except (ValueError, KeyError, TypeError) as error:
        raise RequestFailed("lists its models in no form that is known; give `model`") from error
    if len(names) != 1:
        raise RequestFailed(f"lists {len(names)} models ({', '.join(names)[:200]}); give `model`")
    return names[0]


def _text(answer: Any, max_chars: int) -> str:
    try:
        text = answer["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError) as error:
        raise RequestFailed("answered something that is not a chat completion") from error
    if not isinstance(text, str) or not text.strip():
        raise RequestFailed("answered nothing")
    if len(text) > max_chars:
        raise RequestFailed(f"answered {len(text)} characters; max_text_chars is {max_chars}")
    return text
