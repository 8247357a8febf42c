"""Adversarial responses of records: one place makes them for `mmrlhf probe-reward` and for reward-model training."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmrlhf_ray.rewards.probe import adversarial_responses, question_text, without_media
from mmrlhf_ray.schema import PROMPT, modality_of

MEDIA_REMOVED = "media_removed"
MEDIA_SWAPPED = "media_swapped"


@dataclass(frozen=True)
class Honest:
    """A prompt and a response to it that is taken for honest."""

    prompt: Mapping[str, Any]
    """Columns of PROMPT, and any others."""
    response: str


@dataclass(frozen=True)
class Fooling:
    """A response that no one should prefer."""

    probe: str
    """How it tries to fool: a name of adversarial_responses(), MEDIA_REMOVED or MEDIA_SWAPPED."""
    prompt: dict[str, Any]
    """Columns of PROMPT: what is asked, with the media that are shown and the extras that describe them."""
    response: str
    better: str
    """The response that should be preferred to it."""

    @property
    def of_media(self) -> bool:
        """Whether the media were changed, and not the response."""
        return self.probe in (MEDIA_REMOVED, MEDIA_SWAPPED)


class Adversary:
    """Makes adversarial responses of honest ones. What it makes of a record depends on the records, their number and
    `seed` alone."""

    def __init__(
        self,
        honest: Sequence[Honest],
        kinds: Mapping[str, str],
        max_words: int,
        seed: int,
        *,
        facts_column: str | None = None,
        refusal: str = "",
    ):
        """honest: all that serve as answers and media of others. kinds: media_id → kind of clip. max_words: of a
        response. facts_column: key of extras that says what media show. refusal: what is better than an answer where
        the media are missing."""
        self._kinds, self._max_words, self._seed, self._refusal = kinds, max_words, seed, refusal
        self._undescribed = json.dumps({} if facts_column is None else {facts_column: ""})
        self._answers: dict[str, dict[str, None]] = {}
        self._alike: dict[tuple[str, ...], list[Honest]] = {}
        for own in honest:
            answers = self._answers.setdefault(own.prompt["task"], {})
            if len(answers) <= max_words:  # more cannot fit into one response
                answers.setdefault(own.response)
            self._alike.setdefault(self._group(own), []).append(own)

    def responses(self, number: int, honest: Honest) -> list[Fooling]:
        """All that apply to the record with this number."""
        question = question_text(json.loads(honest.prompt["messages"]))
        answers = list(self._answers.get(honest.prompt["task"], {}))
        own = {name: honest.prompt[name] for name in PROMPT.names}
        made = adversarial_responses(honest.response, question, answers, self._max_words)
        found = [Fooling(probe, own, text, honest.response) for probe, text in made.items()]
        return [*found, *self._media_removed(honest), *self._media_swapped(number, honest)]

    def one(self, number: int, honest: Honest) -> Fooling | None:
        """One of them, each kind as likely as the others; None where none applies."""
        found = self.responses(number, honest)
        return found[int(self._rng(number, 1).integers(len(found)))] if found else None

    def _media_removed(self, honest: Honest) -> list[Fooling]:
        """The response claims to see what is not there. Extras go with the media that they describe."""
        bare = without_media(json.loads(honest.prompt["messages"]))
        if not honest.prompt["media_ids"] or bare is None or honest.response == self._refusal:
            return []
        changed = {"messages": json.dumps(bare, ensure_ascii=False), "media_ids": [], "extras": self._undescribed}
        return [Fooling(MEDIA_REMOVED, self._asked(honest, changed), honest.response, self._refusal)]

    def _media_swapped(self, number: int, honest: Honest) -> list[Fooling]:
        """With media of a prompt of the same task and kinds, to which another response is honest."""
        own, alike = set(honest.prompt["media_ids"]), self._alike.get(self._group(honest), [])
        if not own or not alike:
            return []
        first = int(self._rng(number, 0).integers(len(alike)))
        for donor in (alike[(first + turn) % len(alike)] for turn in range(len(alike))):
            if donor.response != honest.response and not own & set(donor.prompt["media_ids"]):
                changed = {name: donor.prompt[name] for name in ("media_ids", "extras")}
                return [Fooling(MEDIA_SWAPPED, self._asked(honest, changed), honest.response, donor.response)]
        return []

    def _asked(self, honest: Honest, changed: Mapping[str, Any]) -> dict[str, Any]:
        prompt = {name: honest.prompt[name] for name in PROMPT.names} | dict(changed)
        return prompt | {"modality": modality_of({self._kinds[media_id] for media_id in prompt["media_ids"]})}

    def _group(self, honest: Honest) -> tuple[str, ...]:
        return honest.prompt["task"], *(self._kinds[media_id] for media_id in honest.prompt["media_ids"])

    def _rng(self, number: int, use: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, number, use])
