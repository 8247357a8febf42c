"""An answer that is a text."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmrlhf_ray.feedback.questions.base import Answer, Asked, check_keys, check_text, others


@dataclass(frozen=True)
class TextAnswer(Answer):
    """What the annotator wrote; never empty."""

    text: str


def check_text_answer(answer: Mapping[str, Any], asked: Asked) -> TextAnswer:
    """The answer {"text": …}, checked. Raises AnswerError."""
    check_keys(answer, ("text",))
    text = check_text(answer.get("text"), "text", asked, required=True)
    return TextAnswer(**others(answer, asked), text=text)
