"""Say what is good and bad about the response."""

from collections.abc import Mapping
from typing import Any

from mmrlhf_ray.feedback.questions.base import Asked
from mmrlhf_ray.feedback.questions.text import TextAnswer, check_text_answer


class Critique:
    kind = "critique"
    template = "questions/critique.html"
    responses = range(1, 2)

    def check(self, answer: Mapping[str, Any], asked: Asked) -> TextAnswer:
        return check_text_answer(answer, asked)
