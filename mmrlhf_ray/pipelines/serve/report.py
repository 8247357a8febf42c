"""What a served model was asked and what it answered, to the feedback app: prompts as records, media by their hash."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx
from pydantic import Field

from mmrlhf_ray.config.section import Section
from mmrlhf_ray.data.errors import RowError
from mmrlhf_ray.data.formats.openai_chat import OpenAIChat
from mmrlhf_ray.data.media import MediaRow
from mmrlhf_ray.data.records.sources import MediaPlace, load_media
from mmrlhf_ray.data.validate import conversation
from mmrlhf_ray.feedback.client import FeedbackClient, Trouble, connect, until_answered

logger = logging.getLogger(__name__)

_PATIENCE_S = 10.0
"""For an event, whose sender waits."""
_DATA, _DONE = "data: ", "[DONE]"


class Judgement(Section):
    """What somebody did with a served response: the body of `POST /v1/feedback`."""

    response_id: str = Field(min_length=1, max_length=64)
    """`id` of the completion; of one of several choices `id/number`, from 1 on."""
    kind: str = Field(max_length=40)
    """thumbs_up, thumbs_down, copy, click, regenerate, edit (with `text`) or dwell (with `seconds`)."""
    text: str | None = None
    """What the response was changed to."""
    seconds: float | None = None
    """How long it was in sight."""
    event_id: str | None = Field(None, min_length=1, max_length=64)
    """Made by the sender, so that an event that is sent twice counts once; `null` = made here."""

    @property
    def value(self) -> dict[str, Any]:
        """As the feedback app wants it."""
        given = {"text": self.text, "seconds": self.seconds}
        return {key: value for key, value in given.items() if value is not None}


@dataclass(frozen=True)
class Asked:
    """A prompt as a record, and the media that it shows."""

    messages: list[dict[str, Any]]
    media: tuple[MediaRow, ...]


def asked(messages: Sequence[Mapping[str, Any]]) -> Asked:
    """The prompt of a chat request. Raises RowError for what is no record: messages that end with an answer, tools, or
    media that are named by an address, which may show something else later."""
    raw = OpenAIChat().read({"messages": list(messages)}, "PROMPT")
    canonical, parts = conversation(raw)
    for part in parts:
        if not isinstance(part.path, str) or not part.path.startswith("data:"):
            raise RowError(f"the {part.kind} is named by an address", "send it as a data: URL")
    return Asked(canonical, tuple(load_media(part.kind, part.path or "", MediaPlace(None)) for part in parts))


@dataclass
class Answers:
    """The choices of one completion, as its parts come."""

    response_id: str = ""
    texts: dict[int, str] = field(default_factory=dict)
    """Number of the choice → its text."""

    def add(self, part: Mapping[str, Any]) -> None:
        """A completion, or a chunk of a streamed one."""
        self.response_id = self.response_id or str(part.get("id", ""))
        for choice in part.get("choices") or ():
            said = (choice.get("message") or choice.get("delta") or {}).get("content") or ""
            number = int(choice.get("index", 0))
            self.texts[number] = self.texts.get(number, "") + said

    def named(self) -> dict[str, str]:
        """Response id → text, of those that said something."""
        return {
            self.response_id if number == 0 else f"{self.response_id}/{number}": text
            for number, text in sorted(self.texts.items())
            if text
        }


class Reporter:
    """Tells the feedback app of responses in the background, and of judgements while the sender waits."""

    def __init__(self, url: str, token: str, source: str):
        """`token` of an account with the role client; `source`: the model's name, as who wrote the responses."""
        self._client = FeedbackClient(url, token)
        self._http = connect(url, token, _PATIENCE_S, proxies=True)
        self._source = source

    def answered(self, messages: Sequence[Mapping[str, Any]], answers: Answers) -> None:
        """Report a completion. One whose prompt is no record is logged and left out."""
        try:
            prompt = asked(messages)
        except RowError as error:
            logger.warning("response %s is not reported: %s", answers.response_id, error)
            return
        media_ids = [self._client.media(clip["data"], clip["kind"]) for clip in prompt.media]
        row = {"messages": prompt.messages, "media_ids": media_ids}
        for response_id, text in answers.named().items():
            self._client.response(text, row, source=self._source, response_id=response_id)

    async def streamed(
        self, messages: Sequence[Mapping[str, Any]], parts: AsyncIterator[str | bytes]
    ) -> AsyncIterator[str | bytes]:
        """The parts of a streamed completion as they come; it is reported when they have."""
        answers, rest = Answers(), ""
        async for part in parts:
            yield part
            *lines, rest = (rest + (part.decode() if isinstance(part, bytes) else part)).split("\n")
            for line in lines:
                if line.startswith(_DATA) and line.removeprefix(_DATA).strip() != _DONE:
                    answers.add(json.loads(line.removeprefix(_DATA)))
        self.answered(messages, answers)

    async def judged(self, judgement: Judgement) -> tuple[int, dict[str, Any]]:
        """Status and body of the feedback app's answer to an event; 503 where it cannot be reached."""
        return await asyncio.to_thread(self._judged, judgement)

    def _judged(self, judgement: Judgement) -> tuple[int, dict[str, Any]]:
        until = time.monotonic() + _PATIENCE_S
        self._client.flush(_PATIENCE_S / 2)  # the response comes first
        body = {
            "event_id": judgement.event_id or uuid4().hex,
            "response_id": judgement.response_id,
            "kind": judgement.kind,
            "value": judgement.value,
        }

        def wait(seconds: float, trouble: Trouble) -> bool:
            if time.monotonic() + seconds > until:
                return False
            time.sleep(seconds)
            return True

        answer: httpx.Response | None = until_answered(lambda: self._http.post("/api/events", json=body), wait)
        if answer is None:
            return 503, {"error": "the feedback app cannot be reached; send it again with the same event_id"} | body
        return answer.status_code, answer.json()
