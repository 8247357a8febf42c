"""The kinds of questions that people are asked."""

from mmrlhf_ray.feedback.questions.base import Answer, AnswerError, Asked, Question
from mmrlhf_ray.feedback.questions.live import Live
from mmrlhf_ray.feedback.questions.pair import Pair
from mmrlhf_ray.feedback.questions.rank import Rank
from mmrlhf_ray.feedback.questions.rate import Rate
from mmrlhf_ray.feedback.questions.spans import Spans
from mmrlhf_ray.feedback.questions.text import CORRECT, CRITIQUE, DEMONSTRATE

__all__ = ["QUESTIONS", "QUICK", "Answer", "AnswerError", "Asked", "Question", "question_of"]

QUESTIONS: tuple[Question, ...] = (Pair(), Rank(), Rate(), CORRECT, DEMONSTRATE, Spans(), CRITIQUE, Live())
QUICK = ("pair", "rate")
"""Kinds that are answered by a key or few, so that many can be asked at a time."""
_BY_KIND = {question.kind: question for question in QUESTIONS}


def question_of(kind: str) -> Question:
    """The question of a kind. Raises AnswerError for a kind that is not known."""
    if kind not in _BY_KIND:
        raise AnswerError("question", f"no such kind {kind[:40]!r}; expected one of {', '.join(_BY_KIND)}")
    return _BY_KIND[kind]
