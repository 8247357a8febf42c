"""Bias by place and by length: of answers made to have it, and of answers that have none."""

import io

import numpy as np
import pytest
from rich.console import Console

from mmrlhf_ray.feedback.labels.bias import Bias, biases, leans
from mmrlhf_ray.feedback.labels.quality import annotator_quality
from mmrlhf_ray.feedback.labels.report import bias_table, quality_table
from tests.unit.feedback.people import answered, crowd, pair

SHORT, LONG = "yes", "yes, and much more"
TASKS = {f"p{i}": ("even", "odd")[i % 2] for i in range(400)}


def row(found: list[Bias], who: str = "", task: str = "") -> Bias:
    return next(bias for bias in found if (bias.annotator_id, bias.task) == (who, task))


def test_who_takes_the_left_one_and_who_takes_the_longer_one() -> None:
    rng = np.random.default_rng(0)
    votes = []
    for number in range(60):
        order = tuple(int(i) for i in rng.permutation(2))
        common = {"prompt_id": f"p{number}", "responses": (SHORT, LONG), "order": order}
        votes.append(pair("left", who="lazy", **common))
        votes.append(pair(("left", "right")[order.index(1)], who="wordy", **common))
        votes.append(pair("tie", who="even", **common))
    found = biases(votes, TASKS)
    lazy, wordy, even = (row(found, who) for who in ("lazy", "wordy", "even"))
    assert (lazy.first.estimate, lazy.first_votes, leans(lazy.first)) == (1.0, 60, True)
    assert not leans(lazy.longer)
    assert (wordy.longer.estimate, leans(wordy.longer)) == (1.0, True)
    assert not leans(wordy.first)
    assert (even.first, even.first_votes, even.longer) == (None, 0, None)
    assert row(found).first_votes == 120
    assert row(found, task="odd").first_votes == 60
    text = _printed(bias_table(found))
    assert text.count("*") == sum(leans(share) for bias in found for share in (bias.first, bias.longer))


def test_honest_people_have_none() -> None:
    found = biases(crowd({"ann": 0.9, "bob": 0.9}, 300, seed=1), TASKS)
    assert [leans(bias.first) for bias in found if bias.annotator_id] == [False, False]


@pytest.mark.parametrize(("order", "won"), [((0, 1, 2), True), ((2, 1, 0), False), ((1, 0, 2), None)])
def test_a_ranking_compares_its_ends(order: tuple[int, ...], won: bool | None) -> None:
    shown = [(1, 1, 2)[i] if order == (1, 0, 2) else (1, 2, 3)[i] for i in order]
    vote = answered("rank", {"ranks": [1, 2, 1] if won is None else shown}, responses=("a", "bb", "ccc"), order=order)
    found = row(biases([vote], {"p": "t"}))
    assert found.first_votes == (won is not None)
    if won is not None:
        assert found.first.estimate == won
        assert found.longer.estimate == 0.0


def test_reviewers_do_not_count() -> None:
    (found,) = biases([pair("left", role="reviewer")], {"p": "t"})
    assert (found.first, found.longer) == (None, None)


def test_too_few_comparisons_are_said_to_be_so() -> None:
    few, many = crowd({"ann": 1.0, "bob": 1.0}, 19, seed=0), crowd({"ann": 1.0, "bob": 1.0}, 20, seed=0)
    assert "too few" in _printed(quality_table(annotator_quality(few, {})))
    assert "too few" not in _printed(quality_table(annotator_quality(many, {})))


def _printed(table: object) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()
