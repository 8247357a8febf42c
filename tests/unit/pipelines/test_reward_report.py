"""The reward model's report, against figures by hand."""

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmrlhf_ray.algorithms.statistics import wilson_interval
from mmrlhf_ray.pipelines.supervised.reward_report import (
    REPORT_FILE,
    SUMMARY_FILE,
    headline,
    pairs_of,
    summarise,
    write_report,
)
from mmrlhf_ray.schema import EVAL_SCORE
from mmrlhf_ray.training.supervised import EVAL_SCORES_FILE

NAN = math.nan


def responses(row: int, ranks: list[int], members: list[list[float]], **columns: Any) -> list[dict[str, Any]]:
    """EVAL_SCORE rows of one prompt's responses."""
    return [
        {
            "row": row,
            "prompt_id": f"p{row}",
            "task": columns.get("task", "sum"),
            "modality": columns.get("modality", "text"),
            "response": number,
            "score": sum(of_one) / len(of_one),
            "uncertainty": 0.0,
            "members": of_one,
            "rank": rank,
            "aspects": columns.get("aspects", [[]] * len(ranks))[number],
            "ratings": columns.get("ratings", [[]] * len(ranks))[number],
            "form": columns.get("form", [[]] * len(ranks))[number],
        }
        for number, (rank, of_one) in enumerate(zip(ranks, members, strict=True))
    ]


def table(*rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist([response for row in rows for response in row], schema=EVAL_SCORE)


def pair(row: int, chosen: float, rejected: float, **columns: Any) -> list[dict[str, Any]]:
    return responses(row, [1, 2], [[chosen], [rejected]], **columns)


def test_pairs_are_all_two_responses_of_a_row_that_are_ranked_differently() -> None:
    ranking = responses(0, [2, 1, 2, 0], [[0.5], [2.0], [1.0], [9.0]])
    found = pairs_of(table(ranking, responses(1, [1], [[7.0]])))
    assert sorted(p.difference for p in found) == [1.0, 1.5]  # the two seconds tie; nobody ranked the last


def test_uncertainty_is_that_of_the_difference() -> None:
    # Members that differ by a constant agree on every difference.
    agree, disagree = [[1.0, 11.0], [0.0, 10.0]], [[1.0, 11.0], [0.0, 14.0]]
    found = pairs_of(table(responses(0, [1, 2], agree), responses(1, [2, 1], disagree)))
    assert [p.uncertainty for p in found] == pytest.approx([0.0, 2.0])
    assert [p.difference for p in found] == pytest.approx([1.0, 1.0])


def test_accuracy_calibration_and_brier_by_hand() -> None:
    one, three = math.log(9.0), math.log(3.0)  # confidence 0.9 and 0.75
    scores = table(
        pair(0, one, 0.0, task="a", modality="image"),
        pair(1, one, 0.0, task="a"),
        pair(2, 0.0, three, task="b"),
        pair(3, 0.25, 0.25, task="b"),
    )
    summary = summarise(scores, "bradley_terry", [])
    assert (summary.rows, summary.responses) == (4, 8)
    assert summary.overall is not None
    assert summary.overall.pairs == 4
    assert summary.overall.accuracy == wilson_interval(2.5, 4)
    calibration = summary.overall.calibration
    assert calibration is not None
    assert [(b.count, b.right) for b in calibration.bins] == [(1, 0.5), (1, 0.0), (2, 1.0)]
    want = (abs(0.5 - 0.5) + abs(0.0 - 0.75) + 2 * abs(1.0 - 0.9)) / 4
    assert calibration.expected_calibration_error == pytest.approx(want, abs=1e-6)
    assert calibration.brier == pytest.approx((2 * 0.1**2 + 0.75**2 + 0.5**2) / 4, abs=1e-6)
    assert {k: (v.pairs, v.accuracy.estimate) for k, v in summary.by_task.items()} == {"a": (2, 1.0), "b": (2, 0.25)}
    assert {k: v.pairs for k, v in summary.by_modality.items()} == {"image": 1, "text": 3}
    assert summary.by_uncertainty == {}
    assert "4 held-out pairs: pair accuracy 0.625 [" in headline(summary)


def test_an_ensemble_is_shown_by_thirds_of_its_uncertainty() -> None:
    # Uncertainty of the difference is row / 2: wrong where it is largest.
    rows = [responses(k, [1, 2], [[1.0, 1.0 + k], [0.0, 0.0]]) for k in range(4)]
    rows += [responses(k, [1, 2], [[-9.0, -9.0 + k], [0.0, 0.0]]) for k in (4, 5)]
    thirds = summarise(table(*rows), "plackett_luce", []).by_uncertainty
    assert [(name, a.pairs, a.accuracy.estimate) for name, a in thirds.items()] == [
        ("lowest third", 2, 1.0),
        ("middle third", 2, 1.0),
        ("highest third", 2, 0.0),
    ]


def test_ratings_have_errors_per_aspect_and_no_calibration() -> None:
    said, wanted = [[1.0, 2.0], [4.0, 2.0]], [[2.0, NAN], [1.0, NAN]]
    other = responses(1, [0], [[3.0]], aspects=[[3.0, 5.0]], ratings=[[3.0, NAN]])
    scores = table(responses(0, [1, 2], [[2.0], [4.0]], aspects=said, ratings=wanted), other)
    summary = summarise(scores, "rating", ["helpful", "honest"])
    assert summary.overall is not None
    assert summary.overall.calibration is None
    assert summary.overall.accuracy.estimate == 0.0
    assert list(summary.aspects) == ["helpful"]  # nobody rated the other
    error = summary.aspects["helpful"]
    assert error.ratings == 3
    assert error.mean_absolute == pytest.approx((1 + 3 + 0) / 3)
    assert error.root_mean_square == pytest.approx(math.sqrt((1 + 9 + 0) / 3))
    assert error.spread == pytest.approx(math.sqrt(2 / 3))
    assert "helpful: mean absolute error 1.333 over 3 ratings" in headline(summary)


def test_the_files_hold_the_figures_and_nothing_from_elsewhere(tmp_path: Path) -> None:
    scores = table(pair(0, 1.0, 0.0, task="<b>"), pair(1, 0.0, 2.0), pair(2, 3.0, 0.0, modality="video"))
    pq.write_table(scores, tmp_path / EVAL_SCORES_FILE)
    summary = write_report(tmp_path, "rm & co", "bradley_terry", [])
    said = json.loads((tmp_path / SUMMARY_FILE).read_text())
    assert said["overall"]["accuracy"]["estimate"] == pytest.approx(2 / 3)
    assert said["by_modality"]["video"]["pairs"] == 1
    assert summary.overall is not None
    page = (tmp_path / REPORT_FILE).read_text()
    assert "Reward model rm &amp; co" in page
    assert "&lt;b&gt;" in page
    assert "0.667 [" in page
    assert page.count("<circle") == len(summary.overall.calibration.bins)  # type: ignore[union-attr]
    assert not any(word in page for word in ("<script", "http:", "https:", "src=", "<b>"))
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([EVAL_SCORES_FILE, SUMMARY_FILE, REPORT_FILE])


def test_a_report_without_pairs_says_so(tmp_path: Path) -> None:
    pq.write_table(table(responses(0, [1, 1], [[1.0], [2.0]])), tmp_path / EVAL_SCORES_FILE)
    summary = write_report(tmp_path, "rm", "plackett_luce", [])
    assert summary.overall is None
    assert "no two of one prompt are ranked differently" in headline(summary)
    assert "no pair to compare" in (tmp_path / REPORT_FILE).read_text()
