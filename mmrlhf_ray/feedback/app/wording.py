"""How the pages call the kinds of questions."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Wording:
    """Of one kind."""

    name: str
    """In lists."""
    heading: str
    hint: str
    keys: tuple[tuple[str, str], ...]
    """(key, what it does) besides those that every kind has."""


WORDINGS: Mapping[str, Wording] = {
    "pair": Wording(
        "Compare two",
        "Which response is better?",
        "Choose a tie only if you cannot say which one you would rather get.",
        (("← or 1", "response 1 is better"), ("→ or 2", "response 2 is better"), ("↓", "a tie"), ("x", "both are bad")),
    ),
    "rank": Wording(
        "Rank several",
        "Put the responses in order",
        "Rank 1 is the best; equal ranks are ties. Drag the handles, or choose ranks.",
        (("1 … 9", "rank of the response in focus, else of the next one without"), ("↑ ↓", "move the one in focus")),
    ),
    "rate": Wording(
        "Rate",
        "Rate each response",
        "From 1, very bad, to 5, very good. Leave out what you cannot judge.",
        (("1 … 5", "rate, then go to the next row"), ("Backspace", "no rating"), ("Tab", "next row")),
    ),
    "correct": Wording(
        "Correct",
        "Correct the response",
        "Change as little as makes it right. If nothing is wrong, save it as it is.",
        (("e", "edit the text"),),
    ),
    "demonstrate": Wording(
        "Write",
        "Write the best answer",
        "Write what you would like to be answered.",
        (("e", "edit the text"),),
    ),
    "spans": Wording(
        "Mark errors",
        "Mark what is wrong",
        "Select words and mark them. If nothing is wrong, save without a mark.",
        (("e", "go to the text"), ("Shift + arrows", "select"), ("w", "mark the selection as wrong")),
    ),
    "critique": Wording(
        "Criticise",
        "What is good, what is bad?",
        "Say in your own words what is right, what is wrong, and what is missing.",
        (("e", "edit the text"),),
    ),
}
