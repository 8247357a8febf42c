"""The questions of Omni-Digits, and how an answer is worded.

A response is a list of sentences joined by " . ". The last one is `answer : X`; those before it are evidence, one
claim per thing seen or heard: `the image shows 7 . the tone says 3 . answer : image`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mmrlhf_ray.demo.clips import DIRECTIONS

# How evidence about each slot begins; a digit follows.
CLAIMS = {
    "image": "the image shows",
    "left": "the left image shows",
    "right": "the right image shows",
    "tone": "the tone says",
    "clip": "the clip shows",
    "question": "the question says",
}
ANSWER = "answer :"
SENTENCE_END = " . "

_DIGITS = tuple(str(d) for d in range(10))


@dataclass(frozen=True)
class Item:
    """One thing a prompt is about: a medium, or a digit written into the question (no media_id)."""

    digit: int
    media_id: str = ""
    direction: str = ""


@dataclass(frozen=True)
class Task:
    name: str
    modality: str
    slots: tuple[tuple[str, str], ...]
    """(slot, kind of medium), in prompt order; the kind is "text" where the digit stands in the question."""
    questions: tuple[str, ...]
    """Wordings; `{}` is replaced by the digit of a text slot."""
    options: tuple[str, ...]
    answer: Callable[[Sequence[Item]], str | None]
    """The right option, or None where the question has no answer (equal digits)."""
    weight: int = 2
    """Share of prompts, relative to the other tasks."""


def _digit(items: Sequence[Item]) -> str:
    return str(items[0].digit)


def _parity(items: Sequence[Item]) -> str:
    return "odd" if items[0].digit % 2 else "even"


def _larger(first: str, second: str) -> Callable[[Sequence[Item]], str | None]:
    def answer(items: Sequence[Item]) -> str | None:
        a, b = items[0].digit, items[1].digit
        return None if a == b else first if a > b else second

    return answer


TASKS = (
    Task(
        "text_parity",
        "text",
        (("question", "text"),),
        ("is {} even or odd ?", "say whether {} is even or odd ."),
        ("even", "odd"),
        _parity,
        weight=1,
    ),
    Task(
        "image_digit",
        "image",
        (("image", "image"),),
        ("which digit is written ?", "read the digit in the image ."),
        _DIGITS,
        _digit,
    ),
    Task(
        "image_parity",
        "image",
        (("image", "image"),),
        ("is the written digit even or odd ?", "say whether the digit in the image is even or odd ."),
        ("even", "odd"),
        _parity,
    ),
    Task(
        "images_larger",
        "image",
        (("left", "image"), ("right", "image")),
        ("which digit is larger , left or right ?", "left or right : which image has the larger digit ?"),
        ("left", "right"),
        _larger("left", "right"),
    ),
    Task(
        "tone_digit",
        "audio",
        (("tone", "audio"),),
        ("which digit is dialled ?", "name the digit of the tone ."),
        _DIGITS,
        _digit,
    ),
    Task(
        "image_tone_larger",
        "image+audio",
        (("image", "image"), ("tone", "audio")),
        ("which digit is larger , image or tone ?", "image or tone : which has the larger digit ?"),
        ("image", "tone"),
        _larger("image", "tone"),
    ),
    Task(
        "clip_direction",
        "video",
        (("clip", "video"),),
        ("where does the digit move ?", "name the direction in which the digit moves ."),
        DIRECTIONS,
        lambda items: items[0].direction,
    ),
)


@dataclass(frozen=True)
class Case:
    """One prompt with its ground truth."""

    task: Task
    question: str
    items: tuple[Item, ...]
    answer: str

    @property
    def evidence(self) -> dict[str, str]:
        """Slot → digit, in prompt order."""
        return {slot: str(item.digit) for (slot, _), item in zip(self.task.slots, self.items, strict=True)}

    @property
    def facts(self) -> str:
        """The contents of the media, as a short text for a reward model, worded as claims are."""
        said = (
            f"{CLAIMS[slot]} {item.digit}" + (f" moves {item.direction}" if item.direction else "")
            for (slot, _), item in zip(self.task.slots, self.items, strict=True)
        )
        return " , ".join(said)


def draw_case(task: Task, pools: dict[str, Sequence[Item]], wanted: str, rng: np.random.Generator) -> Case:
    """A case of `task` whose answer is the option `wanted`, with items drawn from the pools (kind → items)."""
    while True:
        items = tuple(pools[kind][int(rng.integers(len(pools[kind])))] for _, kind in task.slots)
        if task.answer(items) == wanted:
            break
    question = task.questions[rng.integers(len(task.questions))]
    return Case(task, question.format(*(i.digit for i in items if not i.media_id)), items, wanted)


def respond(answer: str, evidence: dict[str, str]) -> str:
    """The wording of a response with this evidence (may be empty) and answer."""
    claims = [f"{CLAIMS[slot]} {digit}" for slot, digit in evidence.items()]
    return SENTENCE_END.join([*claims, f"{ANSWER} {answer}"])


def vocabulary() -> list[str]:
    """Every word that questions, responses and facts are made of, sorted."""
    texts = [q.replace("{}", " ") for task in TASKS for q in task.questions]
    texts += [f"{slot} {claim}" for slot, claim in CLAIMS.items()]
    texts += [*_DIGITS, *(option for task in TASKS for option in task.options)]
    texts += [ANSWER, SENTENCE_END, ", moves"]
    return sorted({word for text in texts for word in text.split()})
