"""A reward model that sees the media is what a discrete decision earns."""

from pathlib import Path

import numpy as np
import pytest

from mmrlhf_ray.config import DataConfig, EvaluateConfig, ModelConfig
from mmrlhf_ray.data.records.readers import read_records
from mmrlhf_ray.demo.discrete_data import Sizes, build
from mmrlhf_ray.pipelines.discrete import job as discrete
from mmrlhf_ray.pipelines.discrete.material import make_material
from mmrlhf_ray.pipelines.iterate.member_scores import Said, member_scores
from mmrlhf_ray.planning.preflight import read_all
from mmrlhf_ray.runtime.metrics import read_metrics
from mmrlhf_ray.schema import PROMPT
from tests.ray.discrete_support import CLASSES, job

WEIGHT = 2.0
WORDED = "the digit is {}"

pytestmark = pytest.mark.usefixtures("session")


def test_decisions_earn_what_the_reward_model_says_of_them(reward_model_dir: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    build(data, 0, Sizes(train=24, heldout=12))
    model = {"model": {"path": str(reward_model_dir)}, "weight": WEIGHT, "response": WORDED}
    reward = {"labels": 0.0, "reward_model": model}
    cfg = job(data, tmp_path, {"kind": "ppo", "mini_batch_size": 64}, reward=reward)
    run_dir = discrete.run(cfg)
    material, _ = make_material(cfg, read_all(cfg, run_dir), run_dir, resume=True)
    cases = material.tasks[0].cases
    asked = [Said(cases.prompt_ids[row], WORDED.format(CLASSES[digit])) for row, digit in ((0, 3), (23, 9), (7, 0))]
    judge = EvaluateConfig(
        name="judge",
        output_dir=str(tmp_path),
        policy=ModelConfig(path=str(reward_model_dir)),
        reward_model=ModelConfig(path=str(reward_model_dir)),
        data=DataConfig(path=str(data / "digits" / "train")),
    )
    records = read_records(judge.data, PROMPT, run_dir)
    said = member_scores(judge, records, asked, run_dir).mean(axis=1)
    table = material.tasks[0].rewards
    assert table.shape == (24, 10)
    assert np.std(table, axis=1).min() > 0
    assert [table[0, 3], table[23, 9], table[7, 0]] == pytest.approx(list(WEIGHT * said), rel=1e-4, abs=1e-6)
    for row in read_metrics(run_dir):
        assert table.min() <= row["episode reward"] <= table.max()


def test_scores_are_kept_for_resuming_and_for_that_alone(reward_model_dir: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    build(data, 0, Sizes(train=12, heldout=12))
    reward = {"labels": 0.0, "reward_model": {"model": {"path": str(reward_model_dir)}}}
    cfg = job(data, tmp_path, {"kind": "ppo"}, reward=reward)
    kept = tmp_path / "reward_model-digit.npy"
    np.save(kept, np.full((12, 10), 7.0))
    resumed, _ = make_material(cfg, read_all(cfg, tmp_path), tmp_path, resume=True)
    fresh, _ = make_material(cfg, read_all(cfg, tmp_path), tmp_path, resume=False)
    assert np.unique(resumed.tasks[0].rewards).tolist() == [7.0]
    assert len(np.unique(fresh.tasks[0].rewards)) > 10
    assert np.load(kept) == pytest.approx(fresh.tasks[0].rewards, abs=1e-6)
