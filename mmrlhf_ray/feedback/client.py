"""HTTP clients of `mmrlhf feedback serve`: one way to connect, one kind of retry.

FeedbackClient is for applications of a deployed model: they report responses, and what people do with them, without
being held up. ItemsClient fills and reads the queue. Other programs that wait for the answer use connect() and
answered().
"""

import hashlib
import json
import logging
import random
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

from mmrlhf_ray.errors import RunError

logger = logging.getLogger(__name__)

_RETRIED = frozenset({429, 500, 502, 503, 504})
_FIRST_WAIT_S = 0.1
_LONGEST_WAIT_S = 30.0

_ROWS_PER_CALL = 100
_PATIENCE_S = 60.0
_PATIENT_WAIT_S = 0.5

Trouble = httpx.TransportError | httpx.Response
"""Why a request is sent again: the server was not reached, or it answered that it cannot now."""


def connect(url: str, token: str, timeout_s: float, *, proxies: bool = False) -> httpx.Client:
    """A connection to the server with the token of an account; `proxies` that the environment names are used."""
    headers = {"authorization": f"Bearer {token}"}
    return httpx.Client(base_url=url, headers=headers, timeout=timeout_s, follow_redirects=False, trust_env=proxies)


def until_answered(
    send: Callable[[], httpx.Response],
    wait: Callable[[float, Trouble], bool],
    longest_wait_s: float = _LONGEST_WAIT_S,
) -> httpx.Response | None:
    """Send a request, again and again, until the server answers it with success or a refusal: that answer.

    A server that cannot be reached, or says 429, 500, 502, 503 or 504, is asked again after waits that double up to
    `longest_wait_s`, each times a random factor from 0.5 to 1.5. `wait` waits so many seconds; where it returns False
    the request is given up: None. Only for requests that may arrive twice.
    """
    seconds = _FIRST_WAIT_S
    while True:
        trouble: Trouble
        try:
            trouble = send()
        except httpx.TransportError as error:
            trouble = error
        else:
            if trouble.status_code not in _RETRIED:
                return trouble
        if not wait(seconds * random.uniform(0.5, 1.5), trouble):
            return None
        seconds = min(2 * seconds, longest_wait_s)


def described(trouble: Trouble) -> str:
    """Trouble in a line."""
    if isinstance(trouble, httpx.Response):
        return f"status {trouble.status_code}: {trouble.text[:300]}"
    return f"{type(trouble).__name__}: {trouble}"


@dataclass(frozen=True)
class AddedCounts:
    """The outcome of adding items."""

    added: int
    present: int
    """Were there already, with the same content."""


def answered(http: httpx.Client, method: str, path: str, **arguments: Any) -> httpx.Response:
    """The answer to a request that may arrive twice. A server may be away for a minute, e.g. while it is started again.

    Raises RunError where it does not come back, and where it refuses.
    """
    until, last = time.monotonic() + _PATIENCE_S, ""

    def wait(seconds: float, trouble: Trouble) -> bool:
        nonlocal last
        last = described(trouble)
        time.sleep(seconds)
        return time.monotonic() < until

    answer = until_answered(lambda: http.request(method, path, **arguments), wait, _PATIENT_WAIT_S)
    url = http.base_url
    if answer is None:
        raise RunError(f"{url}: the feedback server does not answer: {last}; start it, then try again or use --resume")
    if answer.status_code in (401, 403):
        raise RunError(f"{url}: {answer.text}; this needs the token of an account with the role admin")
    if not answer.is_success:
        raise RunError(f"{url}: {method} {path} was refused with status {answer.status_code}: {answer.text}")
    return answer


def parts(values: Sequence[Any]) -> Iterator[list[Any]]:
    """Lists that are short enough for one request."""
    rest = iter(values)
    while part := list(islice(rest, _ROWS_PER_CALL)):
        yield part


class ItemsClient:
    """The queue of `mmrlhf feedback serve`, for a program that has the token of an administrator.

    Calls return when the server has answered, and may be made again: what is there already changes nothing. Raises
    RunError where the server refuses, or cannot be reached for a minute.
    """

    def __init__(self, url: str, token: str, *, timeout_s: float = 60.0) -> None:
        """`url` of the server; `token` of an account with the role admin."""
        self._http = connect(url, token, timeout_s, proxies=True)

    def add_media(self, data: bytes, kind: str) -> str:
        """Upload an image, a sound or a clip (`kind` image, audio or video); its id, for `media_ids` of items."""
        media_id = hashlib.sha256(data).hexdigest()
        answered(self._http, "PUT", f"/api/media/{media_id}", content=data, params={"kind": kind})
        return media_id

    def add_items(self, rows: Sequence[Mapping[str, Any]], project: str = "default") -> AddedCounts:
        """Put items into the queue of a project, a hundred at a time: each hundred is added as a whole or not at
        all."""
        added = present = 0
        for part in parts(rows):
            outcome = answered(self._http, "POST", "/api/items", json=part, params={"project": project}).json()
            added, present = added + outcome["added"], present + outcome["present"]
        return AddedCounts(added, present)

    def items(self, **wanted: Any) -> Iterator[dict[str, Any]]:
        """Items with their votes, as they are asked; `wanted` as in GET /api/items: question, task, status, text,
        round, project."""
        page = pages = 1
        while page <= pages:
            found = answered(self._http, "GET", "/api/items", params={**wanted, "page": page}).json()
            yield from found["items"]
            page, pages = page + 1, found["pages"]

    def annotations(self, project: str = "") -> Iterator[dict[str, Any]]:
        """Rows of the ANNOTATION table of all that was collected, or in a project, as GET /api/export has them."""
        wanted = {"format": "annotations", "project": project}
        text = answered(self._http, "GET", "/api/export", params=wanted).text
        yield from map(json.loads, text.splitlines())

    def change_item(
        self, item_id: str, *, priority: float | None = None, overlap: int | None = None, assigned: str | None = None
    ) -> None:
        """Ask an item sooner or later, more or fewer people, or only an account or an `@group` ("" = everyone)."""
        body = {"priority": priority, "overlap": overlap, "assigned": assigned}
        answered(self._http, "PATCH", f"/api/items/{quote(item_id)}", json=body)

    def delete_item(self, item_id: str, *, votes: bool = False) -> None:
        """Delete an item; one that has votes only with `votes`, which go as well."""
        answered(self._http, "DELETE", f"/api/items/{quote(item_id)}", params={"votes": votes})

    def projects(self) -> list[dict[str, Any]]:
        """Projects of the account, as GET /api/projects has them: name, title, role, what waits."""
        return list(answered(self._http, "GET", "/api/projects").json()["projects"])

    def set_project(self, name: str, **settings: Any) -> None:
        """Make a project with these settings, or change them where it is there."""
        if name not in [project["name"] for project in self.projects()]:
            answered(self._http, "POST", "/api/projects", json={"name": name, "settings": settings})
        else:
            answered(self._http, "PATCH", f"/api/projects/{quote(name)}", json={"settings": settings})

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True)
class ClientCounts:
    """The outcome of the reports so far."""

    sent: int
    waiting: int
    refused: int
    """The server will not take them; the reasons are in the log."""
    dropped: int
    """There was no room for them, or the server failed at each of the attempts."""


@dataclass(frozen=True)
class _Report:
    method: str
    path: str
    body: Mapping[str, Any] | bytes


class FeedbackClient:
    """Reports to `mmrlhf feedback serve` in the background, in order, over one connection.

    media(), response() and event() only put into a queue: they take microseconds, raise nothing that the network
    causes, and drop the report where `capacity` reports wait already. A report is sent again until the server has it;
    its id, made here, keeps it from counting twice. Reports that wait are lost when the process ends before close().
    """

    def __init__(
        self, url: str, token: str, *, capacity: int = 10_000, timeout_s: float = 5.0, attempts: int = 8
    ) -> None:
        """`url` of the server; `token` of an account with the role client; `attempts` for a report at which the
        server fails. A server that cannot be reached is tried until close()."""
        self._http = connect(url, token, timeout_s, proxies=True)
        self._capacity, self._timeout_s, self._attempts = capacity, timeout_s, attempts
        self._queue: deque[_Report] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._sent = self._refused = self._dropped = 0
        self._thread = threading.Thread(target=self._work, name="feedback-client", daemon=True)
        self._thread.start()

    def media(self, data: bytes, kind: str) -> str:
        """Upload an image, a sound or a clip that a prompt shows; returns its id, for `media_ids` of the prompt."""
        media_id = hashlib.sha256(data).hexdigest()
        self._put(_Report("PUT", f"/api/media/{media_id}?kind={kind}", data))
        return media_id

    def response(self, text: str, prompt: Mapping[str, Any], *, source: str = "", response_id: str = "") -> str:
        """Report a response that was shown to somebody; returns its id. `prompt`: a row as in docs/data.md."""
        response_id = response_id or uuid.uuid4().hex
        body = {"response_id": response_id, "text": text, "source": source, "prompt": dict(prompt)}
        self._put(_Report("POST", "/api/responses", body))
        return response_id

    def event(self, response_id: str, kind: str, **value: Any) -> str:
        """Report what was done with a response; returns the event's id.

        `kind`: thumbs_up, thumbs_down, copy, click, regenerate, edit (with `text`) or dwell (with `seconds`).
        """
        event_id = uuid.uuid4().hex
        body = {"event_id": event_id, "response_id": response_id, "kind": kind, "value": value}
        self._put(_Report("POST", "/api/events", body))
        return event_id

    @property
    def counts(self) -> ClientCounts:
        with self._changed:
            return ClientCounts(self._sent, len(self._queue), self._refused, self._dropped)

    def flush(self, timeout_s: float) -> bool:
        """Wait until nothing waits; False where that takes longer."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._queue, timeout_s)

    def close(self, timeout_s: float = 5.0) -> None:
        """Send what waits, for so long, and end. What is left then is lost, and logged."""
        self.flush(timeout_s)
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(self._timeout_s)  # of the request under way
        if self._queue:
            logger.warning("feedback client closed with %d reports unsent", len(self._queue))
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _put(self, report: _Report) -> None:
        with self._changed:
            if self._closing:
                raise RuntimeError("the feedback client is closed")
            if len(self._queue) >= self._capacity:
                self._dropped += 1
                return
            self._queue.append(report)
            self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closing)
                if self._closing:
                    return
                report = self._queue[0]
            outcome = self._deliver(report)
            with self._changed:
                if outcome is None:
                    return
                self._sent += outcome == "sent"
                self._refused += outcome == "refused"
                self._dropped += outcome == "failed"
                self._queue.popleft()
                self._changed.notify_all()

    def _deliver(self, report: _Report) -> str | None:
        """sent, refused or failed; None where the client was closed meanwhile."""
        failures = 0

        def wait(seconds: float, trouble: Trouble) -> bool:
            nonlocal failures
            failures += isinstance(trouble, httpx.Response)
            logger.debug("feedback server: %s", described(trouble))
            return failures < self._attempts and not self._pause(seconds)

        body = {"content": report.body} if isinstance(report.body, bytes) else {"json": report.body}
        answer = until_answered(lambda: self._http.request(report.method, report.path, **body), wait)
        if answer is None:
            if failures < self._attempts:
                return None
            logger.warning("feedback %s given up after %d attempts", report.path, self._attempts)
            return "failed"
        if answer.is_success:
            return "sent"
        logger.warning("feedback %s refused: %d %s", report.path, answer.status_code, answer.text[:300])
        return "refused"

    def _pause(self, seconds: float) -> bool:
        """Wait; True as soon as the client is closed."""
        until = time.monotonic() + seconds
        with self._changed:
            while not self._closing and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)
            return self._closing
