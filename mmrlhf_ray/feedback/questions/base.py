"""The parts that every kind of question has in common.

Answers are about the responses as shown. `order_shown[p]` is the index, among the responses as stored, of the one shown
at place p; feedback/annotations.py undoes the order.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mmrlhf_ray.feedback.regions import Region

OTHERS = ("critique", "comment", "regions")
"""Carried by an answer of any kind, if it wants: a text about the responses, one to the people who run the collection,
and places that it points at."""


class AnswerError(ValueError):
    """An answer that cannot be taken. `field` names the part, e.g. `ranks[2]`."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


@dataclass(frozen=True)
class Asked:
    """The facts that an answer is checked against."""

    responses: tuple[str, ...]
    """Texts in the order shown."""
    aspects: tuple[str, ...]
    max_text_chars: int
    media: tuple[str, ...] = ()
    """Kind of each medium of the prompt, in order: image, audio or video."""
    max_seconds: float = 0.0
    """Of the longest sound or clip that is taken."""


@dataclass(frozen=True)
class Answer:
    """A checked answer."""

    critique: str
    comment: str
    regions: tuple[Region, ...]
    """Indices of responses are places: 0 = shown first."""


class Question(Protocol):
    """One kind of question."""

    @property
    def kind(self) -> str: ...

    @property
    def template(self) -> str:
        """Name of the page's part that asks it."""

    @property
    def responses(self) -> range:
        """How many responses an item of this kind may have."""

    @property
    def shows(self) -> tuple[str, ...]:
        """Kinds of media of which the prompt must show one; () = it need not."""

    def check(self, answer: Mapping[str, Any], asked: Asked) -> Answer:
        """The answer, checked. Raises AnswerError."""
        ...


def check_keys(answer: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raises AnswerError for a key that is neither in `known` nor in OTHERS."""
    unknown = sorted(answer.keys() - {*known, *OTHERS})
    if unknown:
        raise AnswerError(unknown[0][:80], f"no such field; expected {', '.join((*known, *OTHERS))}")


def check_text(value: Any, field: str, asked: Asked, *, required: bool = False) -> str:
    """Text with Unix line ends, "" for none. Raises AnswerError."""
    if value is None and not required:
        return ""
    if not isinstance(value, str):
        raise AnswerError(field, f"expected text, got {named(value)}")
    value = value.replace("\r\n", "\n")
    if len(value) > asked.max_text_chars:
        raise AnswerError(field, f"has {len(value)} characters, at most {asked.max_text_chars} are taken")
    if required and not value.strip():
        raise AnswerError(field, "is empty; write something or skip the item")
    if "\0" in value or any("\ud800" <= char <= "\udfff" for char in value):
        raise AnswerError(field, "holds a character that is not text (NUL or half a surrogate pair)")
    return value


def check_list(value: Any, field: str, length: int | None = None) -> list[Any]:
    """A list, of `length` entries if that is given. Raises AnswerError."""
    if not isinstance(value, list):
        raise AnswerError(field, f"expected a list, got {named(value)}")
    if length is not None and len(value) != length:
        raise AnswerError(field, f"expected {length} entries, one for each response shown, got {len(value)}")
    return value


def check_whole(value: Any, field: str, low: int, high: int) -> int:
    """A whole number from `low` to `high`. Raises AnswerError."""
    if type(value) is not int or not low <= value <= high:
        raise AnswerError(field, f"expected a whole number from {low} to {high}, got {named(value)}")
    return value


def named(value: Any) -> str:
    """A value in an error message: short, and safe to print."""
    return "nothing" if value is None else ascii(value)[:60]
