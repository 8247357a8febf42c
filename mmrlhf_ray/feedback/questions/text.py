"""Questions whose answer is a text: write the answer, correct it, or say what is good and bad about it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmrlhf_ray.feedback.questions.base import Answer, Asked, check_keys, check_text
from mmrlhf_ray.feedback.questions.others import others


@dataclass(frozen=True)
class TextAnswer(Answer):
    """The annotator's text; never empty."""

    text: str


@dataclass(frozen=True)
class TextQuestion:
    """A Question that is answered by {"text": …}."""

    kind: str
    responses: range
    shows: tuple[str, ...] = ()

    @property
    def template(self) -> str:
        return f"questions/{self.kind}.html"

    def check(self, answer: Mapping[str, Any], asked: Asked) -> TextAnswer:
        check_keys(answer, ("text",))
        text = check_text(answer.get("text"), "text", asked, required=True)
        return TextAnswer(**others(answer, asked), text=text)


DEMONSTRATE = TextQuestion("demonstrate", range(0, 1))
"""Write what the model should have answered."""
CORRECT = TextQuestion("correct", range(1, 2))
"""Change the response so that it is right. Unchanged means that nothing is wrong."""
CRITIQUE = TextQuestion("critique", range(1, 2))
"""Say what is good and bad about the response."""
