"""Every file in jobs/ loads as the job it says it is, and every PPO job can be planned."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from mmrlhf_ray.config import JobKind, PPOConfig, load_config, read_job_kind
from mmrlhf_ray.planning.devices import Nodes
from mmrlhf_ray.planning.plan import plan_ppo
from mmrlhf_ray.planning.render import render
from tests.unit.config.recipe_jobs import RECIPES

JOBS = sorted((Path(__file__).parents[3] / "jobs").rglob("*.yaml"))
GONE = "not said: the default"
ROOTS = {"demo-sft": "sft", "demo-ppo": "ppo", "demo-dpo": "preference", "discrete-ppo": "discrete"}
ROOTS |= {"behaviour-reacher": "behaviour"}
GRPO = "qwen2.5-vl-7b-grpo-1node"
"""The root of the GRPO jobs of real models."""
FOUR_NODES: dict[str, Any] = {
    "algorithm.mini_batch_size": 2048,
    "algorithm.prompts_per_step": 512,
    "deadlines.placement_s": 300.0,
    "placement.encoder.replicas": 8,
    "placement.generator.replicas": 12,
    "placement.policy.replicas": 20,
    "placement.strategy": "PACK",
}
ONE_GPU: dict[str, Any] = {
    "generator.max_num_seqs": 256,
    "algorithm.mini_batch_size": 128,
    "algorithm.prompts_per_step": 32,
    "learner.engine.micro_batch_tokens": 16384,
    "learner.lora.alpha": 64.0,
    "learner.lora.rank": 32,
    "learner.optimizer.lr": 2.0e-5,
    "placement.colocate": [["generator", "policy"]],
    "placement.encoder.num_cpus": 4.0,
    "placement.encoder.replicas": 1,
    "placement.functions.num_cpus": 1.0,
    "placement.generator.num_cpus": 2.0,
    "placement.generator.replicas": 1,
    "placement.policy.num_cpus": 2.0,
    "placement.policy.replicas": 1,
    "sampling.max_response_tokens": 1024,
    "stream.max_staleness": 0,
}
QWEN3: dict[str, Any] = {
    "generator.max_num_seqs": 128,
    "policy.path": "/shared/models/Qwen3-VL-8B-Instruct",
    "policy.shape.hidden_size": 4096,
    "policy.shape.intermediate_size": 12288,
    "policy.shape.num_heads": 32,
    "policy.shape.num_kv_heads": 8,
    "policy.shape.num_layers": 36,
    "policy.shape.parameters_b": 8.77,
    "policy.shape.qk_norm": True,
    "policy.shape.vision.deepstack": 3,
    "policy.shape.vision.gated": False,
    "policy.shape.vision.hidden_size": 1152,
    "policy.shape.vision.input_values": 1536,
    "policy.shape.vision.intermediate_size": 4304,
    "policy.shape.vision.num_layers": 27,
    "policy.shape.vocab_size": 151936,
}
# What each job that has a `base` says other than the file where its chain of bases ends.
DIFFERENCES: dict[str, dict[str, Any]] = RECIPES | {
    "looking-sft": {
        "data.max_prompt_tokens": 96,
        "data.path": "runs/looking/demonstrations",
        "model.path": "runs/looking/base",
        "name": "sft",
        "output_dir": "runs/looking",
        "steps": 900,
    },
    "demo-ppo-fast": {
        "algorithm.mini_batch_size": 32,
        "algorithm.prompts_per_step": 32,
        "steps": 6,
        "weights.transport": "gloo",
    },
    "demo-rloo": {
        "algorithm.advantage_estimator": "rloo",
        "algorithm.critic_warmup_steps": 0,
        "algorithm.n_samples_per_prompt": 4,
        "algorithm.prompts_per_step": 32,
        "critic": GONE,
    },
    "demo-reinforce-pp": {
        "algorithm.advantage_estimator": "reinforce_pp",
        "algorithm.critic_warmup_steps": 0,
        "algorithm.n_samples_per_prompt": 4,
        "algorithm.prompts_per_step": 32,
        "critic": GONE,
    },
    "demo-grpo": {
        "algorithm.advantage_estimator": "grpo",
        "algorithm.aggregation": "sequence_mean",
        "algorithm.critic_warmup_steps": 0,
        "algorithm.kl_coef": 1.0,
        "algorithm.kl_estimator": "k3",
        "algorithm.kl_horizon": 1000.0,
        "algorithm.kl_in": "loss",
        "algorithm.n_samples_per_prompt": 4,
        "algorithm.prompts_per_step": 32,
        "critic": GONE,
    },
    "demo-dr-grpo": {
        "algorithm.advantage_estimator": "dr_grpo",
        "algorithm.aggregation": "constant_length",
        "algorithm.critic_warmup_steps": 0,
        "algorithm.kl_coef": 1.0,
        "algorithm.kl_estimator": "k3",
        "algorithm.kl_horizon": 1000.0,
        "algorithm.kl_in": "loss",
        "algorithm.n_samples_per_prompt": 4,
        "algorithm.prompts_per_step": 32,
        "critic": GONE,
    },
    "demo-gspo": {
        "algorithm.advantage_estimator": "grpo",
        "algorithm.aggregation": "sequence_mean",
        "algorithm.clip_range": 0.05,
        "algorithm.critic_warmup_steps": 0,
        "algorithm.kl_coef": 1.0,
        "algorithm.kl_estimator": "k3",
        "algorithm.kl_horizon": 1000.0,
        "algorithm.kl_in": "loss",
        "algorithm.n_samples_per_prompt": 4,
        "algorithm.policy_loss": "gspo",
        "algorithm.prompts_per_step": 32,
        "critic": GONE,
    },
    "demo-dapo": {
        "algorithm.advantage_estimator": "grpo",
        "algorithm.clip_range": 0.2,
        "algorithm.clip_range_high": 0.28,
        "algorithm.critic_warmup_steps": 0,
        "algorithm.dynamic_sampling.min_spread": 0.3,
        "algorithm.kl_coef": 0.0,
        "algorithm.kl_horizon": 10000.0,
        "algorithm.kl_target": None,
        "algorithm.n_samples_per_prompt": 4,
        "algorithm.overlong.buffer_tokens": 6,
        "algorithm.overlong.penalty": 0.5,
        "algorithm.prompts_per_step": 32,
        "critic": GONE,
        "learner.optimizer.lr": 5e-05,
        "steps": 40,
    },
    "demo-distil": {
        "algorithm.advantage_estimator": "reinforce",
        "algorithm.critic_warmup_steps": 0,
        "algorithm.kl_coef": 0.0,
        "algorithm.kl_horizon": 10000.0,
        "algorithm.kl_target": None,
        "algorithm.mini_batch_size": None,
        "critic": GONE,
        "distillation.divergence": "reverse",
        "distillation.teachers": [{"model": {"path": "runs/demo/ppo/model"}}],
        "distillation.top_k": 32,
        "rewards": [],
        "steps": 40,
    },
    "demo-ipo": {"objective": "ipo"},
    "demo-kto": {"objective": "kto"},
    "demo-mpo": {"objective": "mpo"},
    "demo-orpo": {"beta": 0.5, "objective": "orpo"},
    "demo-simpo": {"beta": 2.0, "objective": "simpo", "simpo_margin": 0.5},
    "behaviour-breakout": {
        "algorithm.entropy_coef": 0.01,
        "algorithm.gamma": 0.97,
        "algorithm.ppo_epochs": 4,
        "ask.first": 200,
        "environment.episode_steps": 500,
        "environment.id": "MinAtar/Breakout-v1",
        "net.hidden": [128],
        "reward_model.first_updates": 200,
        "reward_model.updates": 20,
    },
    "behaviour-windmill": {
        "annotators.judge": "jobs/behaviour_windmill.py:judge",
        "annotators.kind": "script",
        "evaluation.measure": "jobs/behaviour_windmill.py:measure",
        "steps": 30,
    },
    "behaviour-overtaking": {
        "algorithm.entropy_coef": 0.01,
        "algorithm.gamma": 0.9,
        "algorithm.mini_batch_size": 128,
        "annotators.judge": "jobs/behaviour_overtaking.py:judge",
        "annotators.kind": "script",
        "annotators.wrong": 0.0,
        "ask.first": 150,
        "decisions_per_step": 512,
        "environment.arguments.config.duration": 30,
        "environment.arguments.config.lanes_count": 3,
        "environment.arguments.config.observation.observation_configs": [
            {"type": "Kinematics", "vehicles_count": 5, "features": ["presence", "x", "y", "vx", "vy"]},
            {"type": "LidarObservation", "cells": 16},
        ],
        "environment.arguments.config.observation.type": "TupleObservation",
        "environment.arguments.config.vehicles_count": 10,
        "environment.episode_steps": 30,
        "environment.facts": "jobs/behaviour_overtaking.py:facts",
        "environment.id": "highway_env:highway-fast-v0",
        "evaluation.episodes": 10,
        "evaluation.measure": "jobs/behaviour_overtaking.py:measure",
        "segments.frames_per_second": 4,
        "segments.steps": 10,
        "steps": 25,
    },
    "discrete-a2c": {
        "algorithm.kind": "a2c",
        "algorithm.lr": 0.002,
        "decisions_per_step": 256,
        "evaluation.every_steps": 20,
        "max_minutes": 4.5,
        "steps": 400,
    },
    "discrete-reinforce": {
        "algorithm.kind": "reinforce",
        "algorithm.lr": 0.002,
        "decisions_per_step": 256,
        "evaluation.every_steps": 20,
        "max_minutes": 4.5,
        "steps": 400,
    },
    "discrete-clone": {
        "algorithm.kind": "clone",
        "algorithm.labelled_share": 0.01,
        "decisions_per_step": 3200,
        "env_runners": GONE,
        "human_loss.coef": 1.0,
        "human_loss.share": 1.0,
        "human_loss.shown_right": 0.5,
        "human_loss.wrong": 0.1,
        "max_minutes": None,
        "steps": 5,
    },
    "discrete-dqn": {
        "algorithm.batch_size": 256,
        "algorithm.epsilon.decisions": 10000,
        "algorithm.epsilon.end": 0.05,
        "algorithm.epsilon.start": 1.0,
        "algorithm.kind": "dqn",
        "algorithm.learning_starts": 1000,
        "algorithm.updates_per_decision": 0.0625,
        "steps": 60,
    },
    "discrete-feedback": {
        "algorithm.batch_size": 64,
        "algorithm.buffer": 60000,
        "algorithm.epsilon.decisions": 40000,
        "algorithm.epsilon.end": 0.05,
        "algorithm.epsilon.start": 1.0,
        "algorithm.kind": "dqn",
        "algorithm.learning_starts": 1000,
        "algorithm.lr_end": 5e-05,
        "algorithm.prioritized": False,
        "algorithm.updates_per_decision": 0.0625,
        "max_minutes": 4.5,
        "reward.human.wrong": 0.2,
        "reward.labels": 0.0,
        "steps": 45,
    },
    "discrete-multitask": {
        "fusion.kind": "weighted",
        "max_minutes": 4.5,
        "tasks.digit.weight": 3.0,
        "tasks.parity.classes": ["even", "odd"],
        "tasks.parity.heldout.path": "runs/discrete-data/digits/heldout",
        "tasks.parity.kind": "decide",
        "tasks.parity.label": "parity",
        "tasks.parity.train.path": "runs/discrete-data/digits/train",
    },
    "discrete-sequential": {
        "algorithm.entropy_coef": 0.05,
        "algorithm.gamma": 1.0,
        "fusion.stage": "early",
        "max_minutes": 4.5,
        "observation.drop": 0.0,
        "sequential.cost": 0.03,
        "sequential.first": "image",
    },
    "discrete-tune": {
        "max_minutes": None,
        "steps": 20,
        "sweep.concurrent": 1,
        "sweep.parameters.algorithm.entropy_coef": [0.0, 0.01, 0.03],
        "sweep.parameters.algorithm.lr.high": 0.003,
        "sweep.parameters.algorithm.lr.log": True,
        "sweep.parameters.algorithm.lr.low": 0.0003,
        "sweep.parameters.fusion.stage": ["early", "late", "hybrid"],
        "sweep.samples": 6,
    },
    "qwen2.5-vl-7b-grpo-1gpu": ONE_GPU,
    "qwen2.5-vl-7b-grpo-4nodes": FOUR_NODES,
    "qwen3-vl-8b-grpo-1gpu": ONE_GPU | QWEN3,
    "qwen3-vl-8b-grpo-1node": QWEN3 | {"placement.generator.replicas": 4, "placement.policy.replicas": 4},
    "qwen3-vl-8b-grpo-tools-1node": QWEN3
    | {
        "environment.call_format": "hermes",
        "environment.kind": "tools",
        "environment.max_media": 6,
        "environment.max_observation_tokens": 1536,
        "environment.max_turn_tokens": 1024,
        "environment.max_turns": 6,
        "environment.processes": 4,
        "environment.tools": ["crop", "zoom", "python"],
        "generator.max_num_seqs": 54,
        "placement.generator.num_cpus": 7.0,
        "placement.generator.replicas": 4,
        "placement.policy.replicas": 4,
        "rewards": [
            {"function": "accuracy", "kind": "function", "name": "accuracy"},
            {"arguments": {"cost": 0.02}, "function": "turn_penalty", "kind": "function", "name": "turns"},
        ],
        "sampling.max_response_tokens": 6144,
    },
    "qwen3-vl-8b-grpo-4nodes": FOUR_NODES
    | QWEN3
    | {"placement.generator.replicas": 16, "placement.policy.replicas": 16},
}
PPO = [path for path in JOBS if read_job_kind(path) is JobKind.PPO]


def test_all_kinds_are_there():
    assert {read_job_kind(path) for path in JOBS} == set(JobKind)


@pytest.mark.parametrize("path", JOBS, ids=lambda p: p.stem)
def test_loads(path):
    load_config(path, [], read_job_kind(path).config)


@pytest.mark.parametrize("path", PPO, ids=lambda p: p.stem)
def test_dry_run(path):
    plan = plan_ppo(load_config(path, [], PPOConfig))
    assert plan.cfg.name in render(plan)
    for role in plan.memory:
        assert role.limit is None or role.total <= role.limit


@pytest.mark.parametrize("path", [p for p in PPO if p.stem.startswith("demo")], ids=lambda p: p.stem)
def test_demo_jobs_fit_two_cores(path):
    plan = plan_ppo(load_config(path, [], PPOConfig), Nodes(gpus=0, cpus=2))
    assert len(plan.nodes) == 1


def _said(stem: str) -> dict[str, Any]:
    """Dotted key → value of all that a job's file and its bases say."""
    path = next(path for path in JOBS if path.stem == stem)
    cfg = load_config(path, [], read_job_kind(path).config)
    return dict(_flat(cfg.model_dump(mode="json", exclude_unset=True), ""))


def _root(stem: str, kind: JobKind) -> str:
    """Where the job's chain of bases ends: a recipe's second job has its first."""
    if "-grpo-" in stem:
        return GRPO
    first = f"{stem}-first"
    return first if any(path.stem == first for path in JOBS) else next(n for n, of in ROOTS.items() if of == kind)


def _flat(values: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(values, dict):
        yield prefix.removesuffix("."), _from_here(values)
        return
    for key, value in values.items():
        yield from _flat(value, f"{prefix}{key}.")


def _from_here(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _from_here(own) for key, own in value.items()}
    if isinstance(value, list):
        return [_from_here(own) for own in value]
    return value.removeprefix(f"{Path.cwd()}/") if isinstance(value, str) else value


def test_every_file_with_a_base_is_in_the_table():
    based = {path.stem for path in JOBS if "base" in yaml.safe_load(path.read_text())}
    assert based == DIFFERENCES.keys()


@pytest.mark.parametrize("stem", DIFFERENCES)
def test_a_file_with_a_base_is_the_differences_that_it_is_about(stem):
    kind = read_job_kind(next(path for path in JOBS if path.stem == stem))
    root = _said(_root(stem, kind))
    changes = DIFFERENCES[stem]
    gone = tuple(f"{key}." for key, value in changes.items() if value == GONE)
    kept = {key: value for key, value in root.items() if not f"{key}.".startswith(gone)}
    new = {key: value for key, value in changes.items() if value != GONE}
    assert _said(stem) == kept | {"name": stem.removeprefix("demo-")} | new
