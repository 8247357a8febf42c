"""Built-in rewards that compare a response with the right answer in a column.

The answer is a text or number, or a list of them, of which the best match counts. A row without one is not applicable.
"""

import difflib
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal

from mmrlhf_ray.rewards.text import chrf, f_score, number, overlap, squeezed, words

_NUMBER = re.compile(r"(?<![\w.])[+-]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:/\d+)?%?")


def exact_match(
    prompts: Sequence[str],
    completions: Sequence[str],
    *,
    key: str = "answer",
    ignore_case: bool = False,
    ignore_punctuation: bool = False,
    **columns: Any,
) -> list[float | None]:
    """1 where the entire response is the answer, white space apart, else 0."""

    def same(said: str, wanted: str) -> float:
        a, b = (" ".join(words(t)) if ignore_punctuation else squeezed(t) for t in (said, wanted))
        return float(a.casefold() == b.casefold() if ignore_case else a == b)

    return _best(completions, columns[key], same)


def accuracy(
    prompts: Sequence[str],
    completions: Sequence[str],
    *,
    key: str = "answer",
    take: Literal["marker", "boxed", "choice", "number"] = "marker",
    marker: str = "answer:",
    choices: str = "ABCDEFGH",
    tolerance: float = 1e-6,
    **columns: Any,
) -> list[float | None]:
    """1 where the answer that the response gives last is the right one, else 0; 0 where it gives none.

    take: `marker`, the rest of the line after the last `marker` (white space and case don't count in it); `boxed`, the
    last \\boxed{…}; `choice`, a letter of `choices` that stands alone; `number`, a number. The latter two take the
    first one after the last marker, or the last one of a response without a marker. Numbers are equal within
    `tolerance` times the right one; other texts when they are equal without case and a final full stop.
    """
    if tolerance < 0:
        raise ValueError(f"tolerance expects a number of at least 0, got {tolerance}")
    if not marker.strip():
        raise ValueError("marker expects some text, got none")
    if not re.fullmatch("[A-Z]+", choices):
        raise ValueError(f"choices expects capital letters, got {choices!r}")
    marked = re.compile(r"\s*".join(re.escape(c) for c in "".join(marker.split())), re.IGNORECASE)
    token = re.compile(rf"(?<![^\W_])[{choices}](?![^\W_])") if take == "choice" else _NUMBER

    def right(said: str, wanted: str) -> float:
        given = _EXTRACT[take](said, marked, token)
        return float(given is not None and _equal(given, wanted, tolerance))

    return _best(completions, columns[key], right)


def f1(
    prompts: Sequence[str], completions: Sequence[str], *, key: str = "answer", **columns: Any
) -> list[float | None]:
    """Harmonic mean of precision and recall of the response's words against the answer's, each as often as it occurs.

    Source: Rajpurkar et al. 2016, "SQuAD", section 6.1; articles count here, so that all languages are alike.
    """
    return _best(completions, columns[key], lambda said, wanted: f_score(*overlap(words(said), words(wanted))))


def recall(
    prompts: Sequence[str], completions: Sequence[str], *, key: str = "answer", **columns: Any
) -> list[float | None]:
    """Share of the answer's words that occur in the response. Long responses cost nothing here: see the penalties."""
    return _best(completions, columns[key], lambda said, wanted: overlap(words(said), words(wanted))[1])


def text_similarity(
    prompts: Sequence[str],
    completions: Sequence[str],
    *,
    key: str = "answer",
    measure: Literal["chrf", "ratio"] = "chrf",
    **columns: Any,
) -> list[float | None]:
    """Likeness of response and answer in [0, 1]: chrF (`text.chrf`), or twice the matching characters over all
    characters, of the longest matching blocks (Ratcliff & Metzener 1988, `difflib`; slow on long texts)."""
    return _best(completions, columns[key], _MEASURES[measure])


def _ratio(said: str, wanted: str) -> float:
    return difflib.SequenceMatcher(None, said, wanted, autojunk=False).ratio()


_MEASURES: dict[str, Callable[[str, str], float]] = {"chrf": chrf, "ratio": _ratio}


def _best(completions: Sequence[str], answers: Sequence[Any], score: Callable[[str, str], float]) -> list[float | None]:
    """`score(response, answer)` per row; the best where a row has several answers, None where it has none."""
    scores: list[float | None] = []
    for said, answer in zip(completions, answers, strict=True):
        wanted = answer if isinstance(answer, list) else [] if answer is None else [answer]
        scores.append(max((score(said, str(w)) for w in wanted), default=None))
    return scores


def _line(text: str, marked: re.Pattern[str], token: re.Pattern[str]) -> str | None:
    parts = marked.split(text)
    lines = parts[-1].strip().splitlines()
    return lines[0].strip("*` ") if len(parts) > 1 and lines else None


def _boxed(text: str, marked: re.Pattern[str], token: re.Pattern[str]) -> str | None:
    start = text.rfind("\\boxed{")
    depth, first = 0, start + len("\\boxed{")
    if start < 0:
        return None
    for i, character in enumerate(text[first:], first):
        depth += (character == "{") - (character == "}")
        if depth < 0:
            return text[first:i].strip()
    return None


def _token(text: str, marked: re.Pattern[str], token: re.Pattern[str]) -> str | None:
    parts = marked.split(text)
    found = token.findall(parts[-1])
    if not found:
        return None
    return str(found[0] if len(parts) > 1 else found[-1]).rstrip(",")


_EXTRACT: dict[str, Callable[[str, re.Pattern[str], re.Pattern[str]], str | None]] = {
    "marker": _line,
    "boxed": _boxed,
    "choice": _token,
    "number": _token,
}


def _equal(given: str, wanted: str, tolerance: float) -> bool:
    a, b = number(given.rstrip(". ")), number(wanted)
    if a is not None and b is not None:
        return abs(a - b) <= tolerance * abs(b)
    return squeezed(given).rstrip(". ").casefold() == squeezed(wanted).rstrip(". ").casefold()
