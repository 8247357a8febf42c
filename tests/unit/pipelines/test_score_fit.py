"""What is fitted to held-out scores, and what is reported of the rest."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mmrlhf_ray.config import DataConfig, ModelConfig, RewardModelConfig
from mmrlhf_ray.errors import DataError
from mmrlhf_ray.pipelines.supervised.reward_report import pairs_of, summarise
from mmrlhf_ray.pipelines.supervised.score_fit import FEWEST, apply_fit, fit_scores, halves
from tests.unit.pipelines.test_reward_report import pair, table


def config(**keys: Any) -> RewardModelConfig:
    data = DataConfig(path="d")
    return RewardModelConfig(name="rm", model=ModelConfig(path="m"), data=data, eval_data=data, steps=1, **keys)


def scored(rows: int = 200) -> pa.Table:
    """Truth of 1, and 3 for every unit of form, which is the longer for one of the two at random."""
    rng = np.random.default_rng(0)
    made = []
    for row in range(rows):
        longer = [float(v) for v in rng.integers(0, 2, 2)]
        task = "few" if row < 4 else "sum"
        own = pair(row, 1.0 + 3.0 * longer[0], 3.0 * longer[1], task=task, form=[[v] for v in longer])
        made.append(own)
    return table(*made)


def test_the_part_of_form_is_taken_out() -> None:
    scores = scored()
    fit = fit_scores(config(debias=("length",)), scores)
    assert fit.form["length"].coefficient == pytest.approx(3.0, abs=0.2)
    assert (fit.form["length"].low, fit.form["length"].high) == (0.0, 1.0)
    before, after = (summarise(own, "bradley_terry", ()).overall for own in (scores, apply_fit(fit, scores)))
    assert before is not None
    assert after is not None
    assert before.accuracy.estimate < 0.85
    assert after.accuracy.estimate == 1.0


def test_each_task_has_its_scale_and_small_ones_that_of_all() -> None:
    scores = scored()
    fit = fit_scores(config(score_scale="standardise"), scores)
    assert set(fit.tasks) == {"", "sum"}
    of_sum = [row["score"] for row in apply_fit(fit, scores).to_pylist() if row["task"] == "sum"]
    assert (np.mean(of_sum), np.std(of_sum)) == pytest.approx((0.0, 1.0), abs=1e-5)
    warm = fit_scores(config(score_scale="temperature"), scores)
    assert warm.tasks["sum"].centre == 0.0
    assert warm.tasks["sum"].scale > 1.0, "the scores are too sure"
    assert FEWEST > 4


def test_prompts_are_in_one_half_alone() -> None:
    own, others = halves(scored())
    assert len(own) + len(others) == 400
    assert not set(own.column("prompt_id").to_pylist()) & set(others.column("prompt_id").to_pylist())
    assert 60 < len(pairs_of(own)) < 140
    with pytest.raises(DataError, match="eval_data: 2 held-out responses expect pairs in both halves"):
        halves(scored(1))
