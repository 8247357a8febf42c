"""The figures in the heads of the big jobs and in docs/scaling.md are what the planner says."""

from pathlib import Path

import pytest

from benchmarks.plans import BIG, PAGE, head, page, plan_of, with_head

PLANS = {path: plan_of(path) for path in BIG}
REMEDY = "run python -m benchmarks.plans"


@pytest.mark.parametrize("path", BIG, ids=lambda path: path.stem)
def test_a_job_s_head_is_what_the_planner_says(path: Path) -> None:
    text = path.read_text()
    assert with_head(text, head(PLANS[path])) == text, REMEDY


def test_the_page_is_what_the_planner_says() -> None:
    text = PAGE.read_text()
    assert page(text, PLANS) == text, REMEDY


@pytest.mark.parametrize("path", BIG, ids=lambda path: path.stem)
def test_a_big_job_fits_its_nodes_and_fills_them(path: Path) -> None:
    plan = PLANS[path]
    assert plan.warnings == ()
    gpus = sum(role.total_gpus for role in plan.roles)
    assert gpus == {"1gpu": 1, "1node": 8, "4nodes": 32, "16nodes": 128}[path.stem.rpartition("-")[2]]
    assert len(plan.nodes) == -(-gpus // 8)
    assert plan.time is not None
    assert plan.time.seconds < plan.cfg.deadlines.stage_s
