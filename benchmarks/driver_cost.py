"""CPU time and memory that the driver spends on each response of an online step, stage by stage.

Random rollouts in Arrow tables as generators give them, and random answers of four actors for each role; everything
that the driver itself does with them in a step, without the actors and the object store. Memory is the peak above the
rollouts. Each size runs in a process of its own.

    python benchmarks/driver_cost.py OUT.json --rows 1000 10000 100000 --tokens 20 1000 --estimators grpo gae
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import ray

from mmrlhf_ray.config.algorithm import GROUPED, AlgorithmConfig
from mmrlhf_ray.config.base import ModelConfig
from mmrlhf_ray.config.rewards import ModelReward
from mmrlhf_ray.data.batches.batching import PassBudget
from mmrlhf_ray.data.batches.ragged import Ragged, gather, offsets_of
from mmrlhf_ray.pipelines.ppo.experience import Answers, make_experience, mini_batches, shard_by_tokens
from mmrlhf_ray.pipelines.ppo.step import comparable
from mmrlhf_ray.rewards.batch import Rows
from mmrlhf_ray.rewards.mixture import MixtureState, mix
from mmrlhf_ray.rewards.scores import ComponentScores
from mmrlhf_ray.rollout.batch import Rollouts
from mmrlhf_ray.schema import ROLLOUT, check
from mmrlhf_ray.workers.roles.answers import divide

SAMPLES, PROMPT_TOKENS, ACTORS, MINI_BATCHES = 8, 1000, 4, 4
PASS = PassBudget(16384)
T = TypeVar("T")


class Stages:
    """CPU microseconds of each stage and the peak of memory, both per response."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.microseconds: dict[str, float] = {}

    def timed(self, stage: str, work: Callable[[], T]) -> T:
        started = time.process_time()
        result = work()
        self.microseconds[stage] = (time.process_time() - started) / self.rows * 1e6
        return result


@contextmanager
def peak_memory(found: list[float], rows: int) -> Iterator[None]:
    """Appends the highest resident memory above that at the start, KiB per row; looks every two milliseconds."""
    done, highest = threading.Event(), [0]

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = resident()

    def watch() -> None:
        while not done.wait(0.002):
            highest[0] = max(highest[0], resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
        found.append((max(highest[0], resident()) - before) / rows / 1024)


def lengths_of(rows: int, tokens: int, spread: str, rng: np.random.Generator) -> np.ndarray:
    """Response lengths with about `tokens` as their mean."""
    if spread == "uniform":
        return rng.integers(tokens // 2, tokens + tokens // 2 + 1, rows)
    return np.clip(rng.lognormal(np.log(tokens) - 0.5, 1.0, rows), 1, 8 * tokens).astype(np.int64)


def rollout_table(lengths: np.ndarray, rng: np.random.Generator) -> pa.Table:
    """ROLLOUT."""
    rows, tokens = len(lengths), int(lengths.sum())
    group = np.arange(rows) // SAMPLES
    prompts = np.full(rows, PROMPT_TOKENS)

    def ragged(of: np.ndarray, values: np.ndarray) -> pa.Array:
        return Ragged(values, offsets_of(of)).to_arrow()

    columns = {
        "sample_id": [f"p{g}/{i % SAMPLES}" for i, g in enumerate(group)],
        "group_id": group,
        "prompt_id": [f"p{g}" for g in group],
        "task": ["vqa"] * rows,
        "modality": [("image", "text", "video", "image+audio")[g % 4] for g in group],
        "policy_version": np.zeros(rows, np.int32),
        "versions": [[{"version": 0, "start": 0, "end": int(n)}] for n in lengths],
        "segments": [[]] * rows,
        "prompt_token_ids": ragged(prompts, rng.integers(0, 150_000, int(prompts.sum()), np.int32)),
        "facts_token_ids": ragged(np.zeros(rows, np.int64), np.empty(0, np.int32)),
        "response_token_ids": ragged(lengths, rng.integers(0, 150_000, tokens, np.int32)),
        "response_mask": ragged(lengths, np.ones(tokens, bool)),
        "rollout_logprobs": ragged(lengths, rng.normal(-0.5, 0.3, tokens).astype(np.float32)),
        "finish_reason": ["stop"] * rows,
        "media_ids": [["m"]] * rows,
    }
    arrays = [
        pa.array(columns[field.name], field.type) if field.name in columns else _empty(field, rows) for field in ROLLOUT
    ]
    return pa.table(arrays, schema=ROLLOUT)


def _empty(field: pa.Field, rows: int) -> pa.Array:
    return pa.array([[]] * rows, field.type)


def measure(rows: int, tokens: int, spread: str, estimator: str) -> dict[str, Any]:
    """One step of the driver."""
    rng = np.random.default_rng(0)
    table = rollout_table(lengths_of(rows, tokens, spread, rng), rng)
    total = int(Ragged.of_column(table.column("rollout_logprobs")).offsets[-1])
    reward = ModelReward(name="rm", kind="model", model=ModelConfig(path="x"))
    given = {"n_samples_per_prompt": SAMPLES} if estimator in GROUPED else {}
    algorithm = AlgorithmConfig.model_validate(
        {"advantage_estimator": estimator, "prompts_per_step": rows // SAMPLES, "mini_batch_size": rows} | given
    )
    shards = divide(Rollouts(table, ray.ObjectRef.nil(), {}, 0.0), ACTORS, PASS)
    logprobs = rng.normal(-0.5, 0.3, total).astype(np.float32)
    whole = Ragged(logprobs, Ragged.of_column(table.column("rollout_logprobs")).offsets)
    parts = [whole.take(shard.rows) for shard in shards]  # the same for every role: their contents cost the same
    stages = Stages(rows)
    memory: list[float] = []
    with peak_memory(memory, rows):
        _step(stages, table, parts, algorithm, reward, 2 * tokens * 8)
    return {
        "rows": rows,
        "mean_tokens": total / rows,
        "spread": spread,
        "estimator": estimator,
        "microseconds": stages.microseconds,
        "microseconds_in_all": sum(stages.microseconds.values()),
        "kib": memory[0],
    }


def _step(
    stages: Stages,
    table: pa.Table,
    parts: list[Ragged],
    algorithm: AlgorithmConfig,
    reward: ModelReward,
    longest: int,
) -> None:
    rng = np.random.default_rng(1)
    stages.timed("check", lambda: check(table, ROLLOUT, "benchmark"))
    rollouts = Rollouts(table, ray.ObjectRef.nil(), {}, 0.0)
    roles = ["scores", "ref_logprobs", "old_logprobs", *(["values"] if algorithm.has_critic else [])]
    plans = [stages.timed(f"plan {role}", lambda: divide(rollouts, ACTORS, PASS)) for role in roles]
    own = [shard.rows for shard in plans[0]]
    ref = stages.timed("join ref_logprobs", lambda: gather(parts, own))
    old = stages.timed("join old_logprobs", lambda: gather(parts, own))
    values = stages.timed("join values", lambda: gather(parts, own)) if algorithm.has_critic else None
    scores = rng.normal(size=len(table))
    state = MixtureState.start([reward])
    mixed = stages.timed(
        "mix", lambda: mix([reward], {"rm": ComponentScores.of(scores.tolist())}, Rows.of(table), state)
    )
    stages.timed("comparable", lambda: comparable(rollouts, mixed.keep, algorithm))
    answers = Answers(mixed.scores, ref, old, values)
    made = stages.timed("experience", lambda: make_experience(rollouts, answers, 0.01, algorithm, longest, {}))
    group: Any = types.SimpleNamespace(group=range(ACTORS), budget=PASS)
    for role in ["policy", *(["critic"] if algorithm.has_critic else [])]:
        steps = mini_batches(table.column("group_id").to_pylist(), MINI_BATCHES, 1, rng)
        divided = partial(shard_by_tokens, made.table, rollouts, group, steps, "token_mean", longest)
        stages.timed(f"divide for {role}", divided)


def main() -> None:
    """Measure all combinations and write them down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--tokens", type=int, nargs="+", default=[1000])
    parser.add_argument("--spread", nargs="+", default=["uniform"], choices=["uniform", "lognormal"])
    parser.add_argument("--estimators", nargs="+", default=["grpo", "gae"])
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    cases = list(product(args.rows, args.tokens, args.spread, args.estimators))
    if args.one:
        args.out.write_text(json.dumps(measure(*cases[0])))
        return
    results = []
    for rows, tokens, spread, estimator in cases:
        chosen = ["--rows", str(rows), "--tokens", str(tokens), "--spread", spread, "--estimators", estimator]
        subprocess.run([sys.executable, __file__, str(args.out), "--one", *chosen], check=True)
        results.append(json.loads(args.out.read_text()))
        found = results[-1]
        print(
            f"{rows} responses of {found['mean_tokens']:.0f} tokens ({spread}), {estimator}: "
            f"{found['microseconds_in_all']:.1f} µs and {found['kib']:.1f} KiB a response"
        )
        for stage, microseconds in found["microseconds"].items():
            print(f"  {stage:24s} {microseconds:8.2f} µs")
        args.out.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
