"""The gold reward of Omni-Digits: what a response is truly worth. Only evaluation and simulated annotators see it."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmrlhf_ray.demo.tasks import ANSWER, CLAIMS, SENTENCE_END

GROUNDED_WEIGHT = 0.6
FREE_TOKENS = 20
"""Longer than any grounded response with its end token."""
TOKEN_COST = 0.02
"""Per token beyond FREE_TOKENS."""
UNFINISHED_COST = 0.5

_CLAIM = re.compile("(" + "|".join(re.escape(claim) for claim in CLAIMS.values()) + r") (\S+)")
_ANSWER = re.compile(re.escape(ANSWER) + r" (\S+)")
_SLOT_OF = {claim: slot for slot, claim in CLAIMS.items()}


@dataclass(frozen=True)
class GoldScore:
    correct: bool
    """The one answer, given last, is the right one."""
    grounded: bool
    """Everything that the prompt shows is named exactly once and rightly, and nothing else is claimed."""
    length_penalty: float
    unfinished: float

    @property
    def total(self) -> float:
        return self.correct + GROUNDED_WEIGHT * self.grounded - self.length_penalty - self.unfinished


def gold_reward(text: str, finish_reason: str, response_tokens: int, extras: Mapping[str, Any]) -> GoldScore:
    """Score one response.

    `text` without control tokens; `finish_reason` is "stop" or "length"; `response_tokens` counts the end token;
    `extras` is the prompt's parsed `extras` with `answer` and `evidence` (slot → digit).

    Naming several answers, several digits for one thing, or anything besides claims and the answer earns nothing: a
    response that lists every possibility is neither correct nor grounded.
    """
    *claimed, last = text.strip().split(SENTENCE_END)
    answer = _ANSWER.fullmatch(last)
    correct = answer is not None and text.count(ANSWER) == 1 and answer.group(1) == extras["answer"]
    claims = [_CLAIM.fullmatch(sentence) for sentence in claimed]
    # Claims about one slot may only be made once, so they are counted and not put into a dict.
    said = Counter((_SLOT_OF[m.group(1)], m.group(2)) for m in claims if m is not None)
    wellformed = answer is not None and None not in claims
    return GoldScore(
        correct=correct,
        grounded=wellformed and bool(said) and said == Counter(extras["evidence"].items()),
        length_penalty=TOKEN_COST * max(0, response_tokens - FREE_TOKENS),
        unfinished=0.0 if finish_reason == "stop" else UNFINISHED_COST,
    )
