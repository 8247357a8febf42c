"""What the files of `mmrlhf config` start from, and the names of algorithms that people type for a job."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmrlhf_ray.config.aliases import ALIASES
from mmrlhf_ray.config.load import JobKind
from mmrlhf_ray.config.source import merged

Values = Mapping[str, Any]

_MODEL = {"path": "models/my-model"}
_LEARNER = {"optimizer": {"lr": 1e-5}}
_SAVED = {"checkpoint": {"every_steps": 50}}
_REWARD = {"name": "reward_model", "kind": "model", "model": {"path": "runs/my-reward-model/model"}}
_OWN_REWARD = {"name": "exact", "kind": "function", "function": "exact_match"}
_PROMPTS = {"path": "data/prompts.jsonl"}
_HELDOUT = {"path": "data/heldout-prompts.jsonl"}
_ONLINE: dict[str, Any] = {
    "steps": 100,
    "policy": {"path": "runs/my-sft/model"},
    "rewards": [_REWARD],
    "data": _PROMPTS,
    "sampling": {"max_response_tokens": 256},
}

_JOBS: Mapping[JobKind, Values] = {
    JobKind.SFT: {
        "name": "my-sft",
        "model": _MODEL,
        "data": {"path": "data/demonstrations.jsonl"},
        "epochs": 2,
        "batch_size": 32,
        "learner": _LEARNER,
        **_SAVED,
    },
    JobKind.REWARD_MODEL: {
        "name": "my-reward-model",
        "model": {"path": "runs/my-sft/model"},
        "data": {"path": "data/preferences.jsonl"},
        "eval_data": {"path": "data/heldout-preferences.jsonl"},
        "epochs": 1,
        "batch_size": 32,
        "learner": _LEARNER,
        **_SAVED,
    },
    JobKind.PREFERENCE: {
        "name": "my-preference",
        "model": {"path": "runs/my-sft/model"},
        "data": {"path": "data/preferences.jsonl"},
        "objective": "dpo",
        "beta": 0.1,
        "epochs": 1,
        "batch_size": 32,
        "learner": {"optimizer": {"lr": 1e-6}},
        **_SAVED,
    },
    JobKind.PROBE_REWARD: {
        "name": "my-probe",
        "policy": {"path": "runs/my-sft/model"},
        "rewards": [_REWARD],
        "data": {"path": "data/demonstrations.jsonl"},
    },
    JobKind.PPO: {
        "name": "my-ppo",
        **_ONLINE,
        "algorithm": {"prompts_per_step": 64, "kl_coef": 0.05},
        "learner": {"optimizer": {"lr": 1e-6}},
        **_SAVED,
    },
    JobKind.EVALUATE: {
        "name": "my-evaluation",
        "policy": {"path": "runs/my-ppo/model"},
        "baseline": {"path": "runs/my-sft/model"},
        "rewards": [_OWN_REWARD],
        "data": _HELDOUT,
        "sampling": {"max_response_tokens": 256},
    },
    JobKind.ITERATE: {
        "name": "my-loop",
        "rounds": 3,
        "policy": {"path": "runs/my-sft/model"},
        "prompts": _PROMPTS,
        "ask": {"pairs": 200, "overlap": 3},
        "feedback": {"serve": {}},
        "reward_model": {"job": {"epochs": 1, "batch_size": 32}},
        "train": {"ppo": {"steps": 50, "sampling": {"max_response_tokens": 256}}},
        "evaluate": {"data": _HELDOUT},
    },
    JobKind.DISCRETE: {
        "name": "my-decisions",
        "tasks": {
            "answer": {
                "kind": "decide",
                "train": {"path": "data/train-prompts.jsonl"},
                "heldout": _HELDOUT,
                "classes": ["yes", "no"],
            }
        },
        "observation": {"modalities": {"image": {"kind": "image", "height": 16, "width": 16, "channels": 1}}},
        "algorithm": {"kind": "ppo"},
        "steps": 20,
        "decisions_per_step": 1000,
    },
    JobKind.BEHAVIOUR: {
        "name": "my-behaviour",
        "environment": {"id": "Reacher-v5"},
        "annotators": {"kind": "simulated"},
        "ask": {"pairs": 700, "first": 100},
        "algorithm": {"kind": "ppo"},
        "steps": 50,
        "decisions_per_step": 4000,
    },
}
_FEEDBACK: Values = {"data_dir": "feedback", "port": 8600, "overlap": 3}


@dataclass(frozen=True)
class Start:
    """What a template is made from."""

    job: JobKind | None
    values: Values
    head: str


def example(name: str) -> Start:
    """The start of a job, of `feedback` or of an algorithm by its name."""
    if name == "feedback":
        head = "Start the app with: mmrlhf feedback serve --config THIS-FILE"
        return Start(None, _FEEDBACK, f"{head}\nEvery key: mmrlhf config feedback --full\n")
    alias = ALIASES.get(name)
    job = JobKind(name if alias is None else alias.job)
    values = _JOBS[job]
    if alias is not None:
        values = merged(values, alias.values | {"name": f"my-{name}"})
    lines = [
        f"Run it with: mmrlhf {job} THIS-FILE",
        f"Check it first, without starting anything: mmrlhf {job} THIS-FILE --dry-run",
        f"Every key with its default and meaning: mmrlhf config {name} --full, or docs/configuration.md",
    ]
    return Start(job, values, "\n".join(lines))
