"""What a discrete-action job learns from and is measured on: cases, rewards, cloning data, held-out cases."""

from pathlib import Path

import numpy as np

from mmrlhf_ray.config import DiscreteConfig, EvaluateConfig
from mmrlhf_ray.config.discrete_parts import Clone
from mmrlhf_ray.data.records.readers import read_records
from mmrlhf_ray.discrete.cases import Cases
from mmrlhf_ray.discrete.demonstrations import read_cloning_data
from mmrlhf_ray.discrete.env import TaskCases
from mmrlhf_ray.discrete.feedback import reward_table
from mmrlhf_ray.discrete.start import Material
from mmrlhf_ray.discrete.tasks import read_cases, wanted
from mmrlhf_ray.pipelines.iterate.member_scores import Said, member_scores
from mmrlhf_ray.pipelines.run_dir import check_reward_model
from mmrlhf_ray.schema import PROMPT


def read_material(cfg: DiscreteConfig, run_dir: Path, resume: bool) -> tuple[Material, tuple[Cases, ...]]:
    """(for training, held-out cases of each task). Raises DataError where records cannot be decided.

    A reward model scores every decision once, in a Ray session of its own, before the job's.
    """
    if cfg.reward.reward_model is not None:
        check_reward_model(cfg.reward.reward_model.model.path)
    train = [read_cases(cfg, name, "train", run_dir) for name in cfg.tasks]
    heldout = tuple(read_cases(cfg, name, "heldout", run_dir) for name in cfg.tasks)
    cloning = [read_cloning_data(cfg, cases, run_dir) for cases in train] if isinstance(cfg.algorithm, Clone) else []
    tasks = []
    for cases, task in zip(train, cfg.tasks.values(), strict=True):
        scores = _model_scores(cfg, cases, run_dir, resume)
        tasks.append(TaskCases(cases, reward_table(cases, cfg.reward, cfg.seed, scores), task.weight))
    return Material(tasks, cloning), heldout


def _model_scores(cfg: DiscreteConfig, cases: Cases, run_dir: Path, resume: bool) -> np.ndarray | None:
    """[n, decisions] of the reward model, its members' mean; None without one. Kept for resuming."""
    reward = cfg.reward.reward_model
    if reward is None:
        return None
    kept = run_dir / f"reward_model-{cases.task}.npy"
    if resume and kept.exists():
        found: np.ndarray = np.load(kept)
        if found.shape == cases.scores.shape:
            return found
    task = cfg.tasks[cases.task]
    judge = EvaluateConfig(
        name=cfg.name,
        output_dir=cfg.output_dir,
        device=cfg.device,
        deadlines=cfg.deadlines,
        policy=reward.model,
        reward_model=reward.model,
        data=task.train,
    )
    records = wanted(read_records(task.train, PROMPT, run_dir), task.record_tasks, f"tasks.{cases.task}.record_tasks")
    asked = [Said(prompt, reward.response.format(text)) for prompt in cases.prompt_ids for text in cases.actions]
    scores = member_scores(judge, records, asked, run_dir).mean(axis=1).reshape(cases.scores.shape)
    np.save(kept, scores)
    return scores
