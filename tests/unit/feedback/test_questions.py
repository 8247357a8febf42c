"""What is taken as an answer, and how the field that is wrong is named."""

from typing import Any

import pytest

from mmrlhf_ray.feedback.questions import QUESTIONS, AnswerError, Asked, question_of

ASKED = Asked(responses=("one two", "three"), aspects=("helpful", "safe"), max_text_chars=50)
PLAYED = Asked((), ("helpful",), 50, media=("image", "video"), max_seconds=3.0)
ONE = Asked(responses=("näïve 🙂 text",), aspects=("helpful",), max_text_chars=50)

GOOD: list[tuple[str, dict[str, Any], Asked, dict[str, Any]]] = [
    ("pair", {"choice": "both_bad", "critique": "meh"}, ASKED, {"choice": "both_bad", "critique": "meh"}),
    ("rank", {"ranks": [1, 1]}, ASKED, {"ranks": (1, 1)}),
    ("rate", {"ratings": [{"helpful": 5}, {"safe": None}]}, ASKED,
     {"ratings": ({"helpful": 5, "safe": None}, {"helpful": None, "safe": None})}),
    ("correct", {"text": "a\r\nb", "comment": "c"}, ONE, {"text": "a\nb", "comment": "c"}),
    ("demonstrate", {"text": "x"}, Asked((), (), 5), {"text": "x"}),
    ("critique", {"text": "x"}, ONE, {"text": "x"}),
    ("spans", {"spans": [[6, 7, "smile"], [0, 5, ""]]}, ONE, {"spans": ((0, 5, ""), (6, 7, "smile"))}),
    ("spans", {"spans": []}, ONE, {"spans": ()}),
    ("live", {"presses": [[1, 2.5, -1], [1, 1, 1]]}, PLAYED, {"presses": ((1, 1.0, 1), (1, 2.5, -1))}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "answer", "asked", "want"), GOOD)
def test_good_answers(kind: str, answer: dict[str, Any], asked: Asked, want: dict[str, Any]) -> None:
    checked = question_of(kind).check(answer, asked)
    assert {key: getattr(checked, key) for key in want} == want


BAD: list[tuple[str, dict[str, Any], Asked, str]] = [
    ("pair", {}, ASKED, "choice"),
    ("pair", {"choice": "up"}, ASKED, "choice"),
    ("pair", {"choice": ["left"]}, ASKED, "choice"),
    ("pair", {"choice": "left", "order_shown": [1, 0]}, ASKED, "order_shown"),
    ("pair", {"choice": "left", "comment": 3}, ASKED, "comment"),
    ("pair", {"choice": "left", "comment": "x" * 51}, ASKED, "comment"),
    ("rank", {"ranks": [1]}, ASKED, "ranks"),
    ("rank", {"ranks": [2, 2]}, ASKED, "ranks"),
    ("rank", {"ranks": [1, 3]}, ASKED, "ranks[1]"),
    ("rank", {"ranks": [1, True]}, ASKED, "ranks[1]"),
    ("rank", {"ranks": "12"}, ASKED, "ranks"),
    ("rate", {"ratings": [{"helpful": 6}, {}]}, ASKED, "ratings[0].helpful"),
    ("rate", {"ratings": [{"helpful": 2.0}, {}]}, ASKED, "ratings[0].helpful"),
    ("rate", {"ratings": [{}, {"funny": 1}]}, ASKED, "ratings[1].funny"),
    ("rate", {"ratings": [{}, {}]}, ASKED, "ratings"),
    ("rate", {"ratings": [{}, 3]}, ASKED, "ratings[1]"),
    ("correct", {"text": " \n"}, ONE, "text"),
    ("correct", {"text": "a\0b"}, ONE, "text"),
    ("critique", {"text": "\ud800"}, ONE, "text"),
    ("demonstrate", {}, Asked((), (), 5), "text"),
    ("spans", {"spans": [[0, 13, ""]]}, ONE, "spans[0][1]"),
    ("spans", {"spans": [[3, 3, ""]]}, ONE, "spans[0]"),
    ("spans", {"spans": [[0, 3, ""], [2, 4, ""]]}, ONE, "spans"),
    ("spans", {"spans": [[0, 3]]}, ONE, "spans[0]"),
    ("spans", {"spans": [[0, 3, 4]]}, ONE, "spans[0][2]"),
    ("spans", {"spans": [[i, i + 1, ""] for i in range(201)]}, ONE, "spans"),
    ("live", {}, PLAYED, "presses"),
    ("live", {"presses": []}, PLAYED, "presses"),
    ("live", {"presses": [[1, 0, 1]] * 1001}, PLAYED, "presses"),
    ("live", {"presses": [[1, 1]]}, PLAYED, "presses[0]"),
    ("live", {"presses": [[2, 1, 1]]}, PLAYED, "presses[0][0]"),
    ("live", {"presses": [[0, 1, 1]]}, PLAYED, "presses[0][0]"),
    ("live", {"presses": [[1, 1, 1], [1, 3.1, 1]]}, PLAYED, "presses[1][1]"),
    ("live", {"presses": [[1, 1, 0]]}, PLAYED, "presses[0][2]"),
    ("live", {"presses": [[1, 1, True]]}, PLAYED, "presses[0][2]"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "answer", "asked", "field"), BAD)
def test_bad_answers_name_the_field(kind: str, answer: dict[str, Any], asked: Asked, field: str) -> None:
    with pytest.raises(AnswerError) as caught:
        question_of(kind).check(answer, asked)
    assert caught.value.field == field
    assert caught.value.problem


def test_each_kind_is_there_once() -> None:
    kinds = [question.kind for question in QUESTIONS]
    assert kinds == ["pair", "rank", "rate", "correct", "demonstrate", "spans", "critique", "live"]
    assert {kind for kind, *_ in GOOD} == {kind for kind, *_ in BAD} == set(kinds)
    with pytest.raises(AnswerError, match="expected one of pair, rank"):
        question_of("guess")
