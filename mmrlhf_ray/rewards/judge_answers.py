"""What a judge's answer says: a number from 0 to 1, or why it says none."""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from mmrlhf_ray.config.rewards import JudgeReward, PairsConfig

Said = tuple[float | None, str | None]
"""A number, or None and the reason."""

_SHOWN_CHARACTERS = 100
# "8/10" and "8 out of 10" are eight, not ten.
_GRADE = re.compile(r"(?<![\w.])(-?\d+(?:\.\d+)?)(?:\s*(?:/|out of)\s*\d+(?:\.\d+)?)?")
_WORD = re.compile(r"[^\W_]+(?:[-'][^\W_]+)*")


def read_answer(answer: Any, reward: JudgeReward) -> Said:
    """An answer of chat completions as `reward` asks for it. Where two responses are compared: the probability that the
    first one is better."""
    try:
        choice = answer["choices"][0]
        text, finished = choice["message"]["content"], choice.get("finish_reason")
    except (KeyError, IndexError, TypeError, AttributeError):
        return None, "answered without choices[0].message.content"
    if reward.by_probability:
        return _expected(choice, _values_of_labels(reward), reward.least_probability)
    if finished == "length":
        return None, f"was cut off at max_tokens={reward.max_tokens}"
    text = text if isinstance(text, str) else str(text)
    if reward.pairs is not None:
        return _choice(text, reward.pairs)
    if reward.aspects:
        return _rubric(text, reward)
    return _scaled(read_grade(text), f"gave no grade on its last line: {last_line(text)!r}", reward)


def read_grade(text: str) -> float | None:
    """The last number on the last line that is not empty; of `8/10` and `8 out of 10` the first."""
    found = _GRADE.findall(last_line(text))
    return float(found[-1]) if found else None


def last_line(text: str) -> str:
    """The last line that is not empty, or its end where it is long."""
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip()[-_SHOWN_CHARACTERS:] if lines else ""


def _scaled(grade: float | None, otherwise: str, reward: JudgeReward) -> Said:
    lowest, highest = reward.lowest, reward.highest
    if grade is None:
        return None, otherwise
    if not lowest <= grade <= highest:
        return None, f"gave the grade {grade:g}, expected {lowest:g} … {highest:g}"
    return (grade - lowest) / (highest - lowest), None


def _rubric(text: str, reward: JudgeReward) -> Said:
    """The weighted mean of the aspects' grades, each the first number behind the aspect's name on the last line that
    starts with it."""
    total = 0.0
    for name, aspect in reward.aspects.items():
        lines = re.findall(rf"^\W*{re.escape(name)}\b\W*?:(.*)$", text, re.I | re.M)
        found = _GRADE.search(lines[-1]) if lines else None
        number, problem = _scaled(float(found[1]) if found else None, f"gave no grade for {name!r}", reward)
        if number is None:
            return None, problem if found is None else f"{name!r}: {problem}"
        total += aspect.weight * number
    return total / sum(aspect.weight for aspect in reward.aspects.values()), None


def _choice(text: str, pairs: PairsConfig) -> Said:
    """1, 0 or 0.5 by the last word of the last line."""
    words = _WORD.findall(last_line(text))
    values = {pairs.labels[0]: 1.0, pairs.labels[1]: 0.0, pairs.tie: 0.5}
    said = {label.casefold(): value for label, value in values.items()}
    if not words or words[-1].casefold() not in said:
        return None, f"expected one of {', '.join(values)} at the end of its last line: {last_line(text)!r}"
    return said[words[-1].casefold()], None


def _values_of_labels(reward: JudgeReward) -> Mapping[str, float]:
    return dict(zip(reward.pairs.labels, (1.0, 0.0), strict=True)) if reward.pairs else reward.labels


def _expected(choice: Mapping[str, Any], values: Mapping[str, float], least: float) -> Said:
    """Σ p(label) · value / Σ p(label) over the first token's likeliest candidates.

    Source: Liu et al., "G-Eval", 2023, equation 1, relative to what the labels have together.
    """
    try:
        first = choice["logprobs"]["content"][0]
        candidates = {str(c["token"]): float(c["logprob"]) for c in first["top_logprobs"]}
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        return None, "answered without choices[0].logprobs.content[0].top_logprobs"
    mass = {label: _probability(candidates.items(), label) for label in values}
    together = math.fsum(mass.values())
    if not together >= least:
        return None, f"gave {', '.join(values)} a probability of {together:.3g} together, expected {least:g} or more"
    return math.fsum(mass[label] * value for label, value in values.items()) / together, None


def _probability(candidates: Iterable[tuple[str, float]], label: str) -> float:
    """Of all tokens that read `label` but for spaces."""
    return math.fsum(math.exp(logprob) for token, logprob in candidates if token.strip() == label)
