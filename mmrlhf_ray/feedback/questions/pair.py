"""Which of two responses is better?"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmrlhf_ray.feedback.questions.base import Answer, AnswerError, Asked, check_keys, named
from mmrlhf_ray.feedback.questions.others import others

CHOICES = ("left", "right", "tie", "both_bad")


@dataclass(frozen=True)
class PairAnswer(Answer):
    choice: str


class Pair:
    kind = "pair"
    template = "questions/pair.html"
    responses = range(2, 3)
    shows: tuple[str, ...] = ()

    def check(self, answer: Mapping[str, Any], asked: Asked) -> PairAnswer:
        check_keys(answer, ("choice",))
        choice = answer.get("choice")
        if choice not in CHOICES:
            raise AnswerError("choice", f"expected one of {', '.join(CHOICES)}, got {named(choice)}")
        return PairAnswer(**others(answer, asked), choice=choice)
