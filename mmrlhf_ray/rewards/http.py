"""Asking a service: several requests at a time, each tried again with growing pauses, all of them by a deadline."""

import asyncio
import os
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from mmrlhf_ray.config.rewards import JudgeReward, RemoteReward
from mmrlhf_ray.errors import ConfigError

_SHOWN_CHARACTERS = 200
_TRY_AGAIN = frozenset({408, 429})
"""Besides 5xx: trying again does not help with other client errors."""


class RequestFailed(Exception):
    """Why a request has no answer."""


@dataclass(frozen=True)
class Endpoint:
    """An address and how patient to be with it."""

    url: str
    token: str | None = field(repr=False)
    """Sent as bearer token."""
    concurrency: int
    timeout_s: float
    """For one attempt, from connecting to the last byte."""
    attempts: int
    backoff_s: float
    deadline_s: float
    """For all requests together."""

    @classmethod
    def of(cls, reward: RemoteReward | JudgeReward, url: str) -> "Endpoint":
        """Raises ConfigError when the token is not in the environment."""
        return cls(
            url=url,
            token=read_token(reward),
            concurrency=reward.concurrency,
            timeout_s=reward.timeout_s,
            attempts=reward.attempts,
            backoff_s=reward.backoff_s,
            deadline_s=reward.deadline_s,
        )


def read_token(reward: RemoteReward | JudgeReward) -> str | None:
    """The token that the environment holds for a service. Raises ConfigError when it should and does not."""
    if reward.token_env is None:
        return None
    token = os.environ.get(reward.token_env, "").strip()
    if not token:
        raise ConfigError(
            f"rewards: {reward.name}: token_env={reward.token_env}, but that environment variable is not set, or is "
            "empty; set it where the run is started and on every node"
        )
    if not (token.isascii() and token.isprintable()):  # an HTTP library would show it in its error
        raise ConfigError(
            f"rewards: {reward.name}: token_env={reward.token_env} holds characters that no header may have"
        )
    return token


def post_all(endpoint: Endpoint, bodies: Sequence[Mapping[str, Any]]) -> list[Any | RequestFailed]:
    """POST each body as JSON; returns the JSON of each answer, or why there is none, after `deadline_s` at most."""
    return asyncio.run(_post_all(endpoint, bodies))


async def _post_all(endpoint: Endpoint, bodies: Sequence[Mapping[str, Any]]) -> list[Any | RequestFailed]:
    until = time.monotonic() + endpoint.deadline_s
    free = asyncio.Semaphore(endpoint.concurrency)
    headers = {} if endpoint.token is None else {"Authorization": f"Bearer {endpoint.token}"}

    async def answer(body: Mapping[str, Any]) -> Any | RequestFailed:
        async with free:
            try:
                return await _persistently(client, endpoint, body, until)
            except RequestFailed as failure:
                return failure

    # Without httpx's own timeout, which starts anew with every byte.
    async with httpx.AsyncClient(headers=headers, timeout=None) as client:
        return await asyncio.gather(*(answer(body) for body in bodies))


async def _persistently(client: httpx.AsyncClient, endpoint: Endpoint, body: Mapping[str, Any], until: float) -> Any:
    pause = endpoint.backoff_s
    for attempt in range(1, endpoint.attempts + 1):
        if time.monotonic() >= until:
            raise RequestFailed(f"deadline_s={endpoint.deadline_s:g} was over before it could be asked")
        answer = await _once(client, endpoint, body, until)
        if not isinstance(answer, _Refusal):
            return answer
        wait = max(pause * random.uniform(0.5, 1.5), answer.wait_s)
        if attempt == endpoint.attempts:
            break
        if time.monotonic() + wait >= until:
            raise RequestFailed(f"{answer.reason}; deadline_s={endpoint.deadline_s:g} leaves no time to try again")
        await asyncio.sleep(wait)
        pause *= 2
    raise RequestFailed(f"{answer.reason}, after {endpoint.attempts} attempts")


@dataclass(frozen=True)
class _Refusal:
    """Why one attempt failed that may be repeated."""

    reason: str
    wait_s: float = 0.0
    """As the server asks."""


async def _once(client: httpx.AsyncClient, endpoint: Endpoint, body: Mapping[str, Any], until: float) -> Any | _Refusal:
    """Parsed JSON, or why it may be tried again. Raises RequestFailed where trying again is useless."""
    limit = min(endpoint.timeout_s, until - time.monotonic())
    try:
        async with asyncio.timeout(limit):
            response = await client.post(endpoint.url, json=body)
    except TimeoutError:
        return _Refusal(f"did not answer within {limit:.3g} s")
    except httpx.RequestError as error:
        return _Refusal(f"could not be asked ({type(error).__name__}: {error})")
    status = response.status_code
    if status >= 500 or status in _TRY_AGAIN:
        return _Refusal(f"answered HTTP {status}", _retry_after(response))
    if not response.is_success:
        text = " ".join(response.text.split())[:_SHOWN_CHARACTERS]
        raise RequestFailed(f"answered HTTP {status}{': ' if text else ''}{text}")
    try:
        return response.json()
    except ValueError:
        return _Refusal(f"answered HTTP {status} with something that is not JSON")


def _retry_after(response: httpx.Response) -> float:
    """Seconds that the header Retry-After asks for, which may be a number or a date; 0 without one."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):  # neither, or a date without time zone
        return 0.0
