"""How good is each response, by aspect?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmrlhf_ray.feedback.questions.base import (
    Answer,
    AnswerError,
    Asked,
    check_keys,
    check_list,
    check_whole,
    named,
)
from mmrlhf_ray.feedback.questions.others import others

SCALE = range(1, 6)


@dataclass(frozen=True)
class RateAnswer(Answer):
    ratings: tuple[Mapping[str, int | None], ...]
    """For each response shown: aspect to rating, None = not rated."""


class Rate:
    kind = "rate"
    template = "questions/rate.html"
    responses = range(1, 10)
    shows: tuple[str, ...] = ()

    def check(self, answer: Mapping[str, Any], asked: Asked) -> RateAnswer:
        check_keys(answer, ("ratings",))
        given = check_list(answer.get("ratings"), "ratings", len(asked.responses))
        ratings = tuple(_ratings(entry, f"ratings[{i}]", asked.aspects) for i, entry in enumerate(given))
        if all(rating is None for entry in ratings for rating in entry.values()):
            raise AnswerError("ratings", "nothing is rated; rate an aspect or skip the item")
        return RateAnswer(**others(answer, asked), ratings=ratings)


def _ratings(entry: Any, field: str, aspects: Sequence[str]) -> Mapping[str, int | None]:
    if not isinstance(entry, Mapping):
        raise AnswerError(field, f"expected an object of aspects, got {named(entry)}")
    unknown = sorted(entry.keys() - set(aspects))
    if unknown:
        raise AnswerError(f"{field}.{unknown[0][:80]}", f"no such aspect; expected {', '.join(aspects)}")
    return {
        aspect: None
        if entry.get(aspect) is None
        else check_whole(entry[aspect], f"{field}.{aspect}", SCALE[0], SCALE[-1])
        for aspect in aspects
    }
