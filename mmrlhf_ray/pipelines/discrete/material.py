"""Training and test data of a discrete-action job: cases, rewards, cloning data, held-out cases."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mmrlhf_ray.config import DiscreteConfig, EvaluateConfig
from mmrlhf_ray.config.discrete_parts import Clone
from mmrlhf_ray.data.records.readers import Records
from mmrlhf_ray.discrete.cases import Cases
from mmrlhf_ray.discrete.demonstrations import cloning_data_of
from mmrlhf_ray.discrete.env import TaskCases
from mmrlhf_ray.discrete.feedback import reward_table
from mmrlhf_ray.discrete.start import Material
from mmrlhf_ray.discrete.tasks import cases_of, costs_of, wanted
from mmrlhf_ray.pipelines.iterate.member_scores import Said, member_scores


def make_material(
    cfg: DiscreteConfig, records: Mapping[str, Records], run_dir: Path, resume: bool
) -> tuple[Material, tuple[Cases, ...]]:
    """(for training, held-out cases of each task). Raises DataError where records cannot be decided.

    records: what is under each key of `cfg.records`.

    A reward model scores every decision once, in a Ray session of its own, before the job's.
    """
    train = [cases_of(cfg, name, "train", records[f"tasks.{name}.train"]) for name in cfg.tasks]
    heldout = tuple(cases_of(cfg, name, "heldout", records[f"tasks.{name}.heldout"]) for name in cfg.tasks)
    cloning = []
    if isinstance(cfg.algorithm, Clone):
        shown = [records.get(f"tasks.{name}.demonstrations") for name in cfg.tasks]
        cloning = [cloning_data_of(cfg, cases, own) for cases, own in zip(train, shown, strict=True)]
    tasks = []
    for cases, task in zip(train, cfg.tasks.values(), strict=True):
        own = records[f"tasks.{cases.task}.train"]
        rewards = reward_table(cases, cfg.reward, cfg.seed, _model_scores(cfg, cases, own, run_dir, resume))
        tasks.append(TaskCases(cases, rewards, task.weight, costs_of(cfg, cases.task, "train", own)))
    return Material(tasks, cloning), heldout


def _model_scores(
    cfg: DiscreteConfig, cases: Cases, records: Records, run_dir: Path, resume: bool
) -> np.ndarray | None:
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
    shown = wanted(records, task.record_tasks, f"tasks.{cases.task}.record_tasks")
    asked = [Said(prompt, reward.response.format(text)) for prompt in cases.prompt_ids for text in cases.actions]
    scores = member_scores(judge, shown, asked, run_dir).mean(axis=1).reshape(cases.scores.shape)
    np.save(kept, scores)
    return scores
