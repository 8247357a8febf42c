import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmrlhf_ray.algorithms.statistics import wilson_interval
from mmrlhf_ray.discrete.cases import Cases
from mmrlhf_ray.discrete.spaces import PRESENT
from mmrlhf_ray.pipelines.discrete.report import headline, interval_of, task_figures, write_report
from tests.unit.discrete_tiny import job, made_up


class _Reads:
    """A policy that reads the label off the text, and says class 0 where there is none. Called as a network is."""

    def __init__(self, cases: Cases) -> None:
        said = cases.observations(np.arange(len(cases)))["said"]
        self.labels = {said[row].tobytes(): int(cases.labels[row]) for row in range(len(cases))}

    def __call__(self, observations: dict[str, torch.Tensor]) -> torch.Tensor:
        there = observations[PRESENT][:, 1].numpy() > 0
        read = [
            self.labels[text.tobytes()] if t else 0 for text, t in zip(observations["said"].numpy(), there, strict=True)
        ]
        return torch.eye(3)[read]

    def shares(self, observations: dict[str, torch.Tensor]) -> dict[str, dict[str, float]]:
        return {"features": {"image": 0.25, "said": 0.75}}


def _figures(**keys: Any) -> Any:
    cfg = job(**keys)
    cases = made_up(cfg, n=9)  # rows 0, 3, 6 have no text; their label is class 0
    return cfg, cases, _Reads(cases)


def test_figures_by_hand() -> None:
    cfg, cases, net = _figures()
    scores = cases.scores.copy()
    scores[3] = [0, 0, 1]  # has no text: said to be 0, is 2
    cases = Cases(**{**cases.__dict__, "scores": scores})
    found = task_figures(cfg, cases, net)
    assert found.confusion == ((2, 0, 0, 0), (0, 3, 0, 0), (1, 0, 3, 0))
    assert found.score == wilson_interval(8, 9)
    red, green, blue = found.classes
    assert (red.precision, red.recall, red.f1) == (pytest.approx(2 / 3), 1.0, pytest.approx(0.8))
    assert (green.precision, green.recall, green.f1) == (1.0, 1.0, 1.0)
    assert (blue.precision, blue.recall, blue.f1) == (1.0, 0.75, pytest.approx(6 / 7))
    assert found.macro_f1 == pytest.approx((0.8 + 1.0 + 6 / 7) / 3)


def test_withholding_what_is_read_costs_what_it_is_worth() -> None:
    found = task_figures(*_figures())
    assert {a.shown: a.score.estimate for a in found.ablations} == {
        ("image", "said"): 1.0, ("said",): 1.0, ("image",): pytest.approx(1 / 3)
    }  # fmt: skip


def test_the_report_is_one_page_that_loads_nothing(tmp_path: Path) -> None:
    cfg, cases, net = _figures(name="a.b")
    cases = Cases(**{**cases.__dict__, "actions": ("red", "<script>alert(1)</script>", "blue")})
    metrics = [
        {"step": 0, "episode reward": 0.5, "train_seconds": 3.0},
        {"step": 1, "episode reward": 0.75, "heldout_score": 0.5, "train_seconds": 7.0},
    ]
    figures = write_report(tmp_path, cfg, [cases], net, metrics)
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "http" not in page.replace("http-equiv", "")
    assert "7 s of training" in page
    assert "0.750" in page  # the weight of the text
    assert page.count("<svg") == 2
    (written,) = json.loads((tmp_path / "discrete.json").read_text())
    assert written["score"]["estimate"] == figures[0].score.estimate == 1.0
    assert "colour: 9 held-out cases, accuracy 1.000" in headline(figures)


def test_boxes_have_an_iou_instead_of_classes() -> None:
    task = {"kind": "locate", "train": {"path": "a"}, "heldout": {"path": "b"}, "grid": {"columns": 3, "rows": 1}}
    cfg = job(tasks={"place": task})
    cases = made_up(cfg, n=6)
    cases = Cases(**{**cases.__dict__, "scores": np.tile(np.float32([0.6, 0.2, 0.0]), (6, 1))})
    found = task_figures(cfg, cases, _Reads(cases))  # every label is the first
    assert found.measure == "IoU"
    assert found.score.estimate == pytest.approx(0.6)
    assert found.over_half == wilson_interval(6, 6)
    assert found.classes == found.confusion == ()
    assert found.macro_f1 is None


def test_intervals_of_shares_and_of_means() -> None:
    assert interval_of(np.array([1.0, 0.0, 1.0])) == wilson_interval(2, 3)
    means = interval_of(np.array([0.2, 0.4, 0.9]))
    assert means.estimate == pytest.approx(0.5)
    assert 0.2 <= means.low < 0.5 < means.high <= 0.9
