"""Words, numbers and likeness of texts. Standard library only: reward functions run in light processes."""

import re
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

# Numbers with a decimal point are one word; scripts without spaces are cut into characters.
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"\d+(?:\.\d+)?|[{_UNSPACED}]|[^\W\d{_UNSPACED}]+")
_NUMBER = re.compile(r"([+-]?)((?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d{1,2})?)(?:/(\d+(?:\.\d+)?))?(%?)")
_LONGEST_NUMBER = 100
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


def words(text: str) -> list[str]:
    """Lower-case words and numbers, without punctuation."""
    return _WORD.findall(text.casefold())


def number(text: str) -> Fraction | None:
    """The number that the entire text is (`1,234.5`, `-3`, `1/2`, `50%`, `$7`, `1e-3`), or None."""
    if len(text) > _LONGEST_NUMBER:
        return None
    found = _NUMBER.fullmatch(_THOUSANDS.sub("", text.strip().strip("$€£").lower()).strip())
    if found is None:
        return None
    sign, digits, divisor, percent = found.groups()
    below = Fraction(divisor or 1)
    if not below:
        return None
    return (-1 if sign == "-" else 1) * Fraction(digits) / below / (100 if percent else 1)


def squeezed(text: str) -> str:
    """Without white space at both ends, and with single spaces."""
    return " ".join(text.split())


def overlap(said: Sequence[str], wanted: Sequence[str]) -> tuple[float, float]:
    """Precision and recall of one bag of words against another; 0 where a bag is empty."""
    common = sum((Counter(said) & Counter(wanted)).values())
    return common / max(len(said), 1), common / max(len(wanted), 1)


def f_score(precision: float, recall: float, beta: float = 1.0) -> float:
    """(1 + β²)·P·R / (β²·P + R), 0 where both are 0."""
    below = beta * beta * precision + recall
    return (1 + beta * beta) * precision * recall / below if below else 0.0


def chrf(said: str, wanted: str, order: int = 6, beta: float = 2.0) -> float:
    """Character n-gram F-score in [0, 1]: precision and recall are means over n = 1 … `order`; spaces don't count.

    Source: Popović 2015, "chrF: character n-gram F-score for automatic MT evaluation". Lengths that neither text
    reaches are left out of the means.
    """
    a, b = "".join(said.split()), "".join(wanted.split())
    scores = [overlap(_ngrams(a, n), _ngrams(b, n)) for n in range(1, order + 1) if max(len(a), len(b)) >= n]
    if not scores:
        return float(a == b)
    return f_score(sum(p for p, _ in scores) / len(scores), sum(r for _, r in scores) / len(scores), beta)


def _ngrams(text: str, n: int) -> list[str]:
    return [text[i : i + n] for i in range(len(text) - n + 1)]


def strings(value: Any) -> list[str]:
    """Every text and number in nested JSON, keys of objects included."""
    if isinstance(value, dict):
        return [s for key, item in value.items() for s in (str(key), *strings(item))]
    if isinstance(value, list | tuple):
        return [s for item in value for s in strings(item)]
    return [] if value is None else [str(value)]
