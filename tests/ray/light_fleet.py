"""A fleet without models: the driver's side of every role is the real one, and behind it an actor answers at once, or
after as long as a test wants. For what is about time and order, which models would only slow down."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from mmrlhf_ray.config import ModelReward, PPOConfig
from mmrlhf_ray.data.batches.batching import PassBudget, Shard
from mmrlhf_ray.data.batches.ragged import Ragged
from mmrlhf_ray.data.records.order import Order
from mmrlhf_ray.data.records.shares import Shares
from mmrlhf_ray.errors import RoleFailed, RunFailed, Unreachable
from mmrlhf_ray.rollout.batch import TakeStats
from mmrlhf_ray.runtime.actors import ActorGroup
from mmrlhf_ray.schema import ENCODED_PROMPT, PROMPT, ROLLOUT, check
from mmrlhf_ray.weights.push import Pushed, Sent
from mmrlhf_ray.workers.fleet import Fleet
from mmrlhf_ray.workers.roles.answers import Answer
from mmrlhf_ray.workers.roles.encoder import Begun
from mmrlhf_ray.workers.roles.functions import Rewards
from mmrlhf_ray.workers.roles.generator import Generators
from mmrlhf_ray.workers.roles.learner import Learners, Updated
from mmrlhf_ray.workers.roles.prompts import PromptServer
from mmrlhf_ray.workers.roles.reference import References
from mmrlhf_ray.workers.roles.scorer import Scorers
from mmrlhf_ray.workers.watch import Watch

PROMPTS = 40
ASKED = '[{"role": "user", "content": "what is it ?"}]'
"""Different ones; a position beyond shows one again."""
HELD_OUT = 150


class Light:
    """Every role of a run in one actor: it samples responses of one to four tokens, and answers for the rest."""

    def __init__(self, times: "Times | None" = None) -> None:
        self._times, self._version, self._running, self._groups = times or Times(), 0, 0, 0
        self._asked = self._saves = self._proven = 0
        self._failed: set[int] = set()
        self._outdated = False
        self._updates: list[list[tuple[int, int]]] = []
        self._evaluated: list[tuple[str, int]] = []

    async def reset(self, times: "Times") -> None:
        """As if it had just started."""
        self._times, self._version, self._updates, self._evaluated = times, 0, [], []
        self._failed, self._outdated, self._saves = set(), False, 0

    async def updates(self) -> list[list[tuple[int, int]]]:
        """Of each update: position of each group, and the version that sampled it."""
        return self._updates

    async def version(self) -> int:
        """Of its weights."""
        return self._version

    async def groups(self) -> int:
        """How many groups it has sampled."""
        return self._groups

    async def evaluated(self) -> list[tuple[str, int]]:
        """Held-out prompts that were answered, and the version that did."""
        return self._evaluated

    async def generate(
        self, prompts: pa.Table, n_samples: int, together: bool, *media: pa.Table
    ) -> tuple[pa.Table, float]:
        """As Generator's; takes up to ten times as long for some positions than for others."""
        asked = set(prompts.column("group_id").to_pylist())
        if asked & self._times.hopeless:
            raise RoleFailed("nobody can answer this")
        if dying := (asked & self._times.failing) - self._failed:
            self._failed |= dying
            self._outdated = True
        if self._outdated:
            raise RoleFailed("as if it had died")
        self._running += 1
        self._asked += 1
        rows = [self._row(row, k) for row in prompts.to_pylist() for k in range(n_samples)]
        dice = np.random.default_rng(rows[0]["group_id"]).random() if rows else 0.0
        await asyncio.sleep(self._times.generate_s * (0.2 + 1.8 * dice**4))
        self._running -= 1
        self._groups += len(prompts)
        self._evaluated += [(row["prompt_id"], self._version) for row in rows if row["prompt_id"].startswith("held")]
        return pa.Table.from_pylist(rows, schema=ROLLOUT), self._times.generate_s

    async def prove(self, prompts: pa.Table, *media: pa.Table) -> tuple[pa.Table, float]:
        """As Generator's."""
        self._proven += 1
        rows = [self._row(row, 0) for row in prompts.to_pylist()]
        wrong = [logprob - self._times.wrong_by for logprob in rows[0]["rollout_logprobs"]]
        return pa.Table.from_pylist([rows[0] | {"rollout_logprobs": wrong}, *rows[1:]], schema=ROLLOUT), 0.0

    async def proven(self) -> int:
        """How often it was asked to prove itself."""
        return self._proven

    def _row(self, prompt: dict[str, Any], number: int) -> dict[str, Any]:
        shared = ("group_id", "prompt_id", "task", "modality", "prompt_token_ids", "facts_token_ids", "media_ids")
        tokens, version = 1 + (prompt["group_id"] + number) % 4, self._version
        return {name: prompt[name] for name in shared} | {
            "sample_id": f"{prompt['group_id']}/{number}",
            "policy_version": version,
            "versions": [{"version": version, "start": 0, "end": tokens}],
            "segments": [],
            "response_token_ids": [number] * tokens,
            "response_mask": [True] * tokens,
            "rollout_logprobs": [-1.0] * tokens,
            "finish_reason": "stop",
        }

    async def start_weight_update(self, in_flight: str) -> None:
        """As Generator's: waits for what is running where `in_flight` is `finish`."""
        while in_flight == "finish" and self._running:
            await asyncio.sleep(0.001)

    async def finish_weight_update(self, policy_version: int) -> Pushed:
        """As Generator's."""
        self._version, self._outdated = policy_version, False
        return Pushed(policy_version, "", frozenset())

    @ray.method(num_returns="streaming")
    async def take(self, positions: Sequence[int], begun: Begun | None) -> AsyncIterator[pa.Table | TakeStats]:
        """As PromptEncoder's."""
        for part in _served({p: f"p{p % PROMPTS}" for p in positions}):
            yield part

    @ray.method(num_returns="streaming")
    async def slice(self, first: int, last: int, begun: Begun | None) -> AsyncIterator[pa.Table | TakeStats]:
        """As PromptEncoder's, of held-out prompts."""
        for part in _served({n: f"held{n}" for n in range(first, last)}):
            yield part

    async def outdated(self) -> bool:
        """As Generator's."""
        return self._outdated

    async def rendezvous(self) -> tuple[str, int]:
        """As Learner's."""
        return "nowhere", 1

    async def join(self, address: str, port: int) -> None:
        """As Learner's."""

    async def joined(self) -> bool:
        """As Learner's."""
        return True

    async def score(self, rollouts: pa.Table, shard: Shard, *features: pa.Table) -> Answer:
        """As Scorer's: some groups score alike, some have no score."""
        rows = check(rollouts, ROLLOUT, "score").take(list(shard.rows)).to_pylist()
        return Ragged.of_rows([np.array([self._score(row), 0.0]) for row in rows]), 0.0

    def _score(self, row: dict[str, Any]) -> float:
        times = self._times
        if times.unscored_every and row["group_id"] % times.unscored_every == times.unscored_every - 1:
            return float("nan")
        if times.alike_every and row["group_id"] % times.alike_every == 0:
            return 0.5
        return float(row["response_token_ids"][0])

    async def logprobs(self, rollouts: pa.Table, shard: Shard, *features: pa.Table) -> Answer:
        """As Reference's."""
        return Ragged.of_column(rollouts.take(list(shard.rows)).column("rollout_logprobs")), 0.0

    async def infer(self, rollouts: pa.Table, shard: Shard, *features: pa.Table) -> Answer:
        """As Learner's."""
        table = rollouts.take(list(shard.rows))
        return Ragged.of_rows([np.full(len(ids), -1.0) for ids in table.column("response_token_ids").to_pylist()]), 0.0

    async def update(self, experience: pa.Table, shard: Shard, *settings: Any) -> Updated:
        """As Learner's; notes positions and versions of the groups."""
        pairs = zip(*(experience.column(name).to_pylist() for name in ("group_id", "policy_version")), strict=True)
        groups = list(dict.fromkeys(pairs))
        if {position for position, _ in groups} & self._times.unreachable:
            raise Unreachable("as if the network had been gone")
        self._updates.append(groups)
        await asyncio.sleep(self._times.update_s)
        names = ("policy_loss", "tokens", "clip_fraction", "approx_kl", "ratio", "ratio_max", "grad_norm")
        return Updated(dict.fromkeys(names, 1.0), self._times.update_s, None)

    async def save(self, directory: str) -> dict[str, str]:
        """As Learner's, with nothing in it."""
        if self._times.cannot_save:
            raise RunFailed("no room left")
        self._saves += 1
        asked, until = self._asked, time.monotonic() + 30.0
        while self._saves <= self._times.saves_meanwhile and self._asked == asked:
            if time.monotonic() > until:
                raise RoleFailed("nobody was asked for the next step's responses while this was saving")
            await asyncio.sleep(0.001)
        Path(directory).mkdir(parents=True, exist_ok=True)
        return {}

    async def load(self, directory: str) -> None:
        """As Learner's."""

    async def push_weights(self, generators: Sequence[Any], bucket_bytes: int, deadline_s: float) -> Sent:
        """As Learner's."""
        return Sent("", frozenset(), 1)


def _served(names: dict[int, str]) -> tuple[pa.Table, pa.Table, TakeStats]:
    rows = [
        {"group_id": p, "prompt_id": name, "task": "t", "modality": "text", "prompt_token_ids": [7, p % PROMPTS],
         "collapsed_token_ids": [7], "facts_token_ids": [], "media_ids": []}
        for p, name in names.items()
    ]  # fmt: skip
    records = [
        {"prompt_id": name, "messages": ASKED, "media_ids": [], "task": "t", "modality": "text", "extras": "{}"}
        for name in names.values()
    ]
    prompts = pa.Table.from_pylist(records, schema=PROMPT)
    return pa.Table.from_pylist(rows, schema=ENCODED_PROMPT), prompts, TakeStats(0.0, 1, 0)


@dataclass(frozen=True)
class Times:
    """How long things take, and what comes of groups."""

    generate_s: float = 0.0
    update_s: float = 0.0
    alike_every: int = 0
    """Every this many groups score alike; 0 = none does."""
    unscored_every: int = 0
    """Every this many groups have no score."""
    unreachable: frozenset[int] = frozenset()
    """Positions in whose update the policy cannot be reached, once."""
    hopeless: frozenset[int] = frozenset()
    """Positions that fail each time."""
    saves_meanwhile: int = 0
    """So many of the first checkpoints are not written before somebody is asked for the next responses."""
    wrong_by: float = 0.0
    """Nats by which a generator that proves itself is off."""
    cannot_save: bool = False
    """The disk is full."""
    failing: frozenset[int] = frozenset()
    """Positions that the generators die on once; until weights come they are of no use."""


def configuration(**keys: Any) -> PPOConfig:
    """Of a GRPO run of four groups a step, with a correction."""
    algorithm = {"advantage_estimator": "grpo", "prompts_per_step": 4, "n_samples_per_prompt": 2, "mini_batch_size": 8,
                 "mismatch": {"correction": "tis"}}  # fmt: skip
    reward = {"name": "r", "kind": "model", "model": {"path": "none"}}
    return PPOConfig.model_validate(
        {
            "name": "light",
            "policy": {"path": "none"},
            "data": {"path": "none"},
            "rewards": [reward | {"on_missing": "drop"}],
            "deadlines": {"stage_s": 60.0},
            **keys,
            "algorithm": algorithm | keys.get("algorithm", {}),
        }
    )


def _shares(rows: int) -> Shares:
    return Shares(Order(((rows,),), (1.0,), seed=0), 1, None)


def light_fleet(
    light: Any, cfg: PPOConfig, times: Times, watch: Watch | None = None, second: Any | None = None
) -> Fleet:
    """A fleet all of whose roles are `light`, an actor that is as if it had just started; with two generators.

    second: the second generator, which is under `watch` already and need not be there from the start.
    """
    ray.get(light.reset.remote(times))
    group, budget = ActorGroup(("light-0",), (light,)), PassBudget(4096)
    models = tuple(reward for reward in cfg.rewards if isinstance(reward, ModelReward))
    watch = watch or Watch(cfg.recovery)
    for name in ("light-0", "generator-0", *(() if second else ("generator-1",))):
        watch.add(name, light, light.joined.remote)
    deadline_s = cfg.deadlines.stage_s
    return Fleet(
        prompts=PromptServer(group, deadline_s, _shares(PROMPTS)),
        generators=Generators(
            ActorGroup(("generator-0", "generator-1"), (light, second or light)), deadline_s, 1 if second else None
        ),
        rewards=Rewards(Scorers(group, budget, deadline_s), models, None),
        reference=References(group, budget, deadline_s) if cfg.needs_reference else None,
        policy=Learners(group, budget, deadline_s),
        critic=None,
        held_out=PromptServer(group, deadline_s, _shares(HELD_OUT)) if cfg.eval_data else None,
        bucket_bytes=1,
        watch=watch,
        start_s=cfg.deadlines.start_s,
    )
