"""A run of Omni-Digits that no one trained: for pictures and tests of the pages on runs.

Prompts, media and answers are the demo's; curves and log-probabilities are drawn at random, the same for a seed.
"""

import json
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mmrlhf_ray.config import PPOConfig, save_config
from mmrlhf_ray.demo.data import Sizes, build_data
from mmrlhf_ray.demo.gold import gold_reward
from mmrlhf_ray.demo.tasks import respond
from mmrlhf_ray.pipelines.responses import MediaFolder
from mmrlhf_ray.schema import RESPONSE, check

STEPS = 60
_GROUPS = 8
_SAMPLES = 4
_SIZES = Sizes(
    demonstrations=7, prompts_train=26, prompts_heldout=13, tones=10, tones_heldout=10, clips=4, clips_heldout=4
)


@dataclass
class SampleRun:
    """The run's directory, and how to have it go on."""

    path: Path
    prompts: list[dict[str, Any]]
    media: pa.Table
    rng: np.random.Generator
    done: int = 0
    kept: MediaFolder = field(init=False)

    def __post_init__(self) -> None:
        self.kept = MediaFolder(self.path, 64 << 20)

    def go_on(self, steps: int = 1, texts: dict[str, Any] | None = None) -> None:
        """Take steps: metrics, responses and media of each. texts: columns of the first prompt's rows instead."""
        for _ in range(steps):
            self._keep(texts or {})
            with (self.path / "metrics.jsonl").open("a", encoding="ascii") as file:
                file.write(json.dumps({"step": self.done, "time": time.time(), **self._metrics()}) + "\n")
            self.done += 1

    def end(self) -> None:
        """As after the export of the model."""
        (self.path / "model").mkdir()

    def _metrics(self) -> dict[str, float | None]:
        at, noise = self.done / STEPS, lambda size: float(self.rng.normal(0, size))
        found: dict[str, float | None] = {
            "score": 0.2 + 0.7 * (1 - math.exp(-3 * at)) + noise(0.04),
            "score_std": 0.5 - 0.2 * at + noise(0.02),
            "reward_gold": 0.4 + 0.9 * (1 - math.exp(-3 * at)) + noise(0.05),
            "reward_length": -0.2 * at + noise(0.02),
            "kl": 1.4 * at + abs(noise(0.05)),
            "entropy": 1.2 - 0.7 * at + noise(0.03),
            "policy_loss": noise(0.02),
            "clip_fraction": abs(noise(0.02)),
            "ratio_max": 1.2 + abs(noise(0.1)),
            "response_tokens": 8 + 3 * at + noise(0.3),
            "unfinished": max(0.0, 0.1 - 0.1 * at + noise(0.01)),
            "mismatch_mean": 0.002 + abs(noise(0.001)),
            "grad_norm": 1.0 + abs(noise(0.2)),
            "lr": 1e-5 * min(1.0, 10 * (at + 0.01)),
            "staleness_mean": 1.0,
            "seconds_step": 6.5 + abs(noise(0.5)),
            "seconds_generate": 3.1 + abs(noise(0.3)),
            "idle_generator": 0.5 + noise(0.05),
        }
        if self.done % 10 == 9:
            score = 0.15 + 0.6 * (1 - math.exp(-3 * at))
            found |= {"eval_score": score, "eval_score_low": score - 0.05, "eval_score_high": score + 0.05}
        return found

    def _keep(self, texts: dict[str, Any]) -> None:
        chosen = self.rng.choice(len(self.prompts), _GROUPS, replace=False)
        rows = [
            row | (texts if number == 0 else {})
            for number, at in enumerate(chosen)
            for row in self._group(self.done * _GROUPS + number, self.prompts[at])
        ]
        table = check(pa.Table.from_pylist(rows, schema=RESPONSE), RESPONSE, "sample run")
        directory = self.path / "rollouts"
        directory.mkdir(exist_ok=True)
        fresh = directory / ".new.partial"
        pq.write_table(table, fresh)
        fresh.replace(directory / f"step-{self.done:06d}.parquet")
        wanted = set(self.kept.lacking(table))
        own = [n for n, media_id in enumerate(self.media.column("media_id").to_pylist()) if media_id in wanted]
        self.kept.write(self.media.take(pa.array(own, pa.int64())))

    def _group(self, group_id: int, prompt: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        extras = json.loads(prompt["extras"])
        answers = []
        for number in range(_SAMPLES):
            right = self.rng.random() < 0.4 + 0.5 * self.done / STEPS
            text = respond(extras["answer"] if right else str(self.rng.choice(extras["options"])), extras["evidence"])
            finish = "length" if number == 3 and self.rng.random() < 0.3 else "stop"
            gold = gold_reward(text, finish, len(text.split()) + 1, extras).total
            answers.append((text, finish, gold))
        mean, spread = float(np.mean([a[2] for a in answers])), float(np.std([a[2] for a in answers])) or 1.0
        for number, (text, finish, gold) in enumerate(answers):
            sample_id = f"{group_id}-{number}"
            own = {"sample_id": sample_id, "group_id": group_id, "text": text, "finish_reason": finish, "score": gold}
            yield {**self._tokens(text, (gold - mean) / spread), **self._prompt(prompt), **own} | {
                "components": json.dumps({"gold": gold, "length": -0.02 * len(text.split())}),
            }

    def _prompt(self, prompt: Mapping[str, Any]) -> dict[str, Any]:
        names = ("prompt_id", "messages", "media_ids", "extras", "task", "modality")
        return {name: prompt[name] for name in names} | {
            "turns": "[]",
            "step": self.done,
            "policy": "ppo",
            "media": "own",
        }

    def _tokens(self, text: str, advantage: float) -> dict[str, Any]:
        words = [word if first else f" {word}" for first, word in zip([True] + [False] * 999, text.split())] + ["</s>"]
        count = len(words)
        sampled = -np.abs(self.rng.normal(0, 0.8, count))
        old = sampled + self.rng.normal(0, 0.01, count)
        reference = old - self.rng.normal(0.1, 0.25, count)
        return {
            "response_tokens": count,
            "kl": float((old - reference).sum()),
            "advantage": advantage,
            "response_token_ids": list(range(count)),
            "tokens": words,
            "response_mask": [True] * count,
            "rollout_logprobs": sampled,
            "old_logprobs": old,
            "ref_logprobs": reference,
            "ratios": np.exp(old - sampled),
            "advantages": advantage + self.rng.normal(0, 0.3, count),
            "versions": [{"version": self.done, "start": 0, "end": count}],
        }


def sample_run(directory: Path, seed: int = 0, **settings: Any) -> SampleRun:
    """A run that has begun, in `directory`. settings: keys of its configuration, with underscores for dots."""
    data = build_data(directory.parent / f".{directory.name}-data", seed, _SIZES)
    job = {
        "name": directory.name,
        "output_dir": str(directory.parent),
        "policy": {"path": "runs/my-sft/model"},
        "rewards": [
            {"name": "gold", "kind": "function", "function": "gold.py:gold"},
            {"name": "length", "kind": "function", "function": "length", "weight": 0.5},
        ],
        "data": {"path": "prompts.jsonl"},
        "steps": STEPS,
    }
    save_config(PPOConfig.model_validate(job | settings), directory / "config.yaml")
    prompts = pq.read_table(data.prompts_train / "records.parquet").to_pylist()
    media = pq.read_table(data.prompts_train / "media.parquet")
    return SampleRun(directory, prompts, media, np.random.default_rng(seed))
