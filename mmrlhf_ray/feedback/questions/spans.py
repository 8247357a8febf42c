"""Where is the response wrong?"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from mmrlhf_ray.feedback.questions.base import (
    Answer,
    AnswerError,
    Asked,
    check_keys,
    check_list,
    check_text,
    check_whole,
    named,
)
from mmrlhf_ray.feedback.questions.others import others

_MAX_SPANS = 200


@dataclass(frozen=True)
class SpansAnswer(Answer):
    spans: tuple[tuple[int, int, str], ...]
    """(start, end, note), by start; empty = nothing is wrong."""


class Spans:
    """Spans are in characters, as Python counts them: Unicode code points, not the UTF-16 units of a browser."""

    kind = "spans"
    template = "questions/spans.html"
    responses = range(1, 2)
    shows: tuple[str, ...] = ()

    def check(self, answer: Mapping[str, Any], asked: Asked) -> SpansAnswer:
        check_keys(answer, ("spans",))
        given = check_list(answer.get("spans"), "spans")
        if len(given) > _MAX_SPANS:
            raise AnswerError("spans", f"at most {_MAX_SPANS} are taken, got {len(given)}")
        spans = sorted(_span(span, f"spans[{i}]", asked) for i, span in enumerate(given))
        for (_, end, _), (start, _, _) in pairwise(spans):
            if start < end:
                raise AnswerError("spans", f"two of them overlap at character {start}; join them")
        return SpansAnswer(**others(answer, asked), spans=tuple(spans))


def _span(span: Any, field: str, asked: Asked) -> tuple[int, int, str]:
    if not isinstance(span, list | tuple) or len(span) != 3:
        raise AnswerError(field, f"expected [start, end, note], got {named(span)}")
    length = len(asked.responses[0])
    start = check_whole(span[0], f"{field}[0]", 0, length)
    end = check_whole(span[1], f"{field}[1]", 0, length)
    if start >= end:
        raise AnswerError(field, f"ends at {end}, which is not after its start at {start}")
    return start, end, check_text(span[2], f"{field}[2]", asked)
