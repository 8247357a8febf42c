"""On-policy distillation without a reward: the policy comes nearer to its teachers."""

from pathlib import Path

import pytest
import torch
import yaml

from mmrlhf_ray.data.encoding.encode import load_encoder
from mmrlhf_ray.models import export_model, load_policy
from mmrlhf_ray.runtime.metrics import read_metrics
from tests.command import Here

pytestmark = pytest.mark.e2e


def test_the_policy_learns_from_two_teachers(here: Here, ppo_job: Path, model_dir: Path, tmp_path: Path) -> None:
    adapter, teachers = load_encoder(str(model_dir)).adapter, []
    for seed in (0, 1):
        model, generator = load_policy(adapter, model_dir, torch.float32), torch.Generator().manual_seed(seed)
        noisy = {n: p.detach() + 0.05 * torch.randn(p.shape, generator=generator) for n, p in model.named_parameters()}
        export_model(adapter, model_dir, tmp_path / f"teacher-{seed}", noisy, scalar=False)
        teachers.append({"model": {"path": str(tmp_path / f"teacher-{seed}")}, "weight": 1.0 + seed})
    values = yaml.safe_load(ppo_job.read_text())
    for role in ("critic", "scorer", "functions"):
        del values["placement"][role]
    del values["critic"]
    values |= {
        "output_dir": str(tmp_path),
        "steps": 6,
        "rewards": [],
        "distillation": {"teachers": teachers, "top_k": 32, "divergence": "forward"},
        "algorithm": {"advantage_estimator": "reinforce", "kl_coef": 0.0, "prompts_per_step": 13,
                      "n_samples_per_prompt": 2, "mini_batch_size": 26},
        "learner": {"engine": {"zero_stage": 2}, "optimizer": {"lr": 3e-3}},
    }  # fmt: skip
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(values))
    finished = here("ppo", str(tmp_path / "job.yaml"), cwd=tmp_path)
    assert finished.returncode == 0, finished.err
    rows = read_metrics(tmp_path / "run")
    losses = [row["distillation_loss"] for row in rows]
    assert len(losses) == 6
    assert losses[-1] < 0.8 * losses[0], losses
    assert sum(losses[3:]) < 0.85 * sum(losses[:3]), losses
    assert all(row["policy_loss"] == row["score"] == 0.0 for row in rows)
    assert all(row["seconds_teachers"] > 0 and "kl" not in row for row in rows), "there is no reference"
