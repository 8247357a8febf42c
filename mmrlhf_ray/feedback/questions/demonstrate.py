"""Write what the model should have answered."""

from collections.abc import Mapping
from typing import Any

from mmrlhf_ray.feedback.questions.base import Asked
from mmrlhf_ray.feedback.questions.text import TextAnswer, check_text_answer


class Demonstrate:
    kind = "demonstrate"
    template = "questions/demonstrate.html"
    responses = range(0, 1)

    def check(self, answer: Mapping[str, Any], asked: Asked) -> TextAnswer:
        return check_text_answer(answer, asked)
