"""What bounded staleness is worth: the stream's own admission and buffer between simulated generators and a learner.

    python -m benchmarks.stream_simulator --output out/stream_simulator.json
    python -m benchmarks.stream_simulator --generators 8 64 --sigma 1.0

A generator decodes all of its running responses together: a token of each takes `token_s + batch_s · running` seconds.
Lengths are lognormal; half of their variance in logs is the prompt's, which its group shares. Nothing of Ray, vLLM or a
model is in it: the figures are ratios between settings of `stream`, not promises of seconds.
"""

import argparse
import heapq
import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mmrlhf_ray.rollout.admission import admissible
from mmrlhf_ray.rollout.buffer import Buffer, Leave
from mmrlhf_ray.rollout.ledger import Consumed, Ledger


@dataclass(frozen=True)
class Machine:
    """Times of one job, seconds."""

    name: str
    train_s: float
    push_s: float
    token_s: float = 0.012
    batch_s: float = 0.00006


MACHINES = (
    Machine("3B-like: train 30 s, push 3 s", 30.0, 3.0, token_s=0.008),
    Machine("7B-like: train 60 s, push 5 s", 60.0, 5.0),
    Machine("7B-like: train 60 s, push 60 s", 60.0, 60.0),
    Machine("72B-like: train 200 s, push 10 s", 200.0, 10.0, token_s=0.035, batch_s=0.00012),
)


@dataclass(frozen=True)
class Workload:
    """What is sampled, and where."""

    generators: int = 8
    slots: int = 128
    """Responses that a generator runs at a time."""
    n_samples: int = 8
    prompts_per_step: int = 128
    steps: int = 12
    mean: float = 1000.0
    """Tokens of a response."""
    sigma: float = 1.0
    cap: int = 8192
    filtered: float = 0.0
    """Share of groups that dynamic sampling leaves out."""
    seed: int = 0

    def lengths(self, position: int) -> np.ndarray:
        """Tokens of each response to the prompt at a position."""
        rng = np.random.default_rng((self.seed, position))
        shared, own = rng.normal(), rng.normal(size=self.n_samples)
        logs = math.log(self.mean) - self.sigma**2 / 2 + self.sigma * (shared + own) / math.sqrt(2)
        tokens: np.ndarray = np.clip(np.exp(logs), 16, self.cap)
        return tokens

    def is_filtered(self, position: int) -> bool:
        """Whether the group at a position teaches nothing."""
        return bool(np.random.default_rng((self.seed, position, 1)).random() < self.filtered)


@dataclass
class _Engine:
    """A generator. Its clock counts the tokens that each running response has got since the start."""

    machine: Machine
    tokens: float = 0.0
    at: float = 0.0
    ends: list[tuple[float, int]] = field(default_factory=list)
    """Heap of (value of `tokens` at which a response ends, its group's position)."""

    @property
    def token_s(self) -> float:
        """Seconds that a token of every running response takes."""
        return self.machine.token_s + self.machine.batch_s * len(self.ends)

    def advance(self, now: float) -> float:
        """Decode until `now`; returns the tokens that were sampled."""
        made = (now - self.at) / self.token_s if self.ends else 0.0
        self.tokens, self.at = self.tokens + made, now
        return made * len(self.ends)

    def next_end(self) -> float:
        """When the next response ends."""
        return self.at + (self.ends[0][0] - self.tokens) * self.token_s if self.ends else math.inf


@dataclass
class Outcome:
    """What a simulated run did."""

    trained: list[tuple[int, int, int]] = field(default_factory=list)
    """Of each trained group: position, version that drew it, version that was trained."""
    left: Counter[Leave] = field(default_factory=Counter)
    ends: list[float] = field(default_factory=list)
    """When each step was over."""
    tokens: float = 0.0
    most_held: int = 0
    """Most groups that were running or ready at once."""
    consumed: list[Consumed] = field(default_factory=list)
    """What a checkpoint after each step would hold."""

    @property
    def step_s(self) -> float:
        """Seconds of a step, the first quarter left out."""
        first = len(self.ends) // 4
        return (self.ends[-1] - self.ends[first]) / (len(self.ends) - 1 - first)

    @property
    def ages(self) -> Counter[int]:
        """Staleness → trained groups."""
        return Counter(trained - drawn for _, drawn, trained in self.trained)


class Simulation:
    """One run: groups are admitted to the least loaded generator; requests in flight survive a push."""

    def __init__(
        self,
        machine: Machine,
        load: Workload,
        max_staleness: int,
        max_running: int | None = None,
        oversample: float = 1.0,
        consumed: Consumed | None = None,
        version: int = 0,
    ):
        """`consumed`, `version`: where an earlier run's checkpoint goes on."""
        self.machine, self.load = machine, load
        self.max_staleness, self.max_running, self.oversample = max_staleness, max_running, oversample
        self.now, self.outcome = 0.0, Outcome()
        self._ledger = Ledger(consumed or Consumed())
        self._buffer: Buffer[None] = Buffer(load.prompts_per_step, max_staleness, self._ledger, version)
        self._engines = [_Engine(machine) for _ in range(load.generators)]
        self._left: dict[int, int] = {}
        """Position → responses of its group that have not ended."""
        self._drawn: dict[int, int] = {}
        self._trains_until = self._pauses_until = math.inf

    def run(self) -> Iterator[float]:
        """Event by event until the last step; the time of each."""
        while self.version < self.load.steps:
            self._admit()
            ends = [engine.next_end() for engine in self._engines]
            self.now = min(*ends, self._trains_until, self._pauses_until)
            self.outcome.tokens += sum(engine.advance(self.now) for engine in self._engines)
            if self._pauses_until <= self.now:
                self._pauses_until = math.inf
                self._pushed()
            elif self._trains_until <= self.now:
                self._trains_until, self._pauses_until = math.inf, self.now + self.machine.push_s
            elif ends:
                self._finish(self._engines[int(np.argmin(ends))])
            self._learn()
            yield self.now

    @property
    def version(self) -> int:
        """Steps that are done."""
        return self._buffer.version

    def _admit(self) -> None:
        allowed = admissible(
            running=self._buffer.running,
            accepted=self.version * self.load.prompts_per_step + self._buffer.ready + self._learning,
            version=self.version,
            prompts_per_step=self.load.prompts_per_step,
            max_staleness=self.max_staleness,
            max_running=self.max_running,
            oversample=self.oversample,
            steps=self.load.steps,
        )
        for _ in range(allowed):
            engine = min(self._engines, key=lambda own: len(own.ends))
            if len(engine.ends) + self.load.n_samples > self.load.slots:
                return
            position = self._ledger.draw()
            self._buffer.start(position)
            self._drawn[position], self._left[position] = self.version, self.load.n_samples
            for length in self.load.lengths(position):
                heapq.heappush(engine.ends, (engine.tokens + float(length), position))
        self.outcome.most_held = max(self.outcome.most_held, self._buffer.running + self._buffer.ready)

    @property
    def _learning(self) -> int:
        """Groups of the batch at work, which count as trained, although its version is still to come."""
        busy = math.isfinite(self._trains_until) or math.isfinite(self._pauses_until)
        return self.load.prompts_per_step if busy else 0

    def _finish(self, engine: _Engine) -> None:
        _, position = heapq.heappop(engine.ends)
        self._left[position] -= 1
        if self._left[position]:
            return
        if self.load.is_filtered(position):
            self._buffer.drop(position, Leave.FILTERED)
        else:
            self._buffer.accept(position, self._drawn[position], None)

    def _learn(self) -> None:
        if not self._learning and self._buffer.can_take():
            batch = self._buffer.take()
            self.outcome.trained += [(ready.position, ready.version, self.version) for ready in batch]
            self._trains_until = self.now + self.machine.train_s

    def _pushed(self) -> None:
        self._buffer.advance()
        self.outcome.left += self._buffer.left
        self._buffer.left.clear()
        self.outcome.ends.append(self.now)
        self.outcome.consumed.append(self._ledger.consumed)


def simulate(machine: Machine, load: Workload, max_staleness: int, oversample: float = 1.0) -> Outcome:
    """A run from its first step to its last."""
    run = Simulation(machine, load, max_staleness, oversample=oversample)
    for _ in run.run():
        pass
    return run.outcome


def study(load: Workload, staleness: tuple[int, ...] = (0, 1, 2, 4)) -> list[dict[str, object]]:
    """A row for each machine and staleness; `gain` is against staleness 0 on the same machine."""
    rows: list[dict[str, object]] = []
    for machine in MACHINES:
        peak = load.generators * load.slots / (machine.token_s + machine.batch_s * load.slots)
        before = math.nan
        for k in staleness:
            run = simulate(machine, load, k)
            before = run.step_s if k == staleness[0] else before
            row = {
                "machine": machine.name,
                "generators": load.generators,
                "sigma": load.sigma,
                "max_staleness": k,
                "step_s": run.step_s,
                "gain": before / run.step_s,
                "generators_busy": run.tokens / run.ends[-1] / peak,
                "learner_busy": machine.train_s / run.step_s,
                "staleness": {str(age): count for age, count in sorted(run.ages.items())},
            }
            rows.append(row)
            print(
                f"{machine.name:32s} {load.generators:4d} generators, staleness {k}: step {run.step_s:7.1f} s, "
                f"× {before / run.step_s:.2f}, generators at {row['generators_busy']:.0%} of their full rate, "
                f"learner at {row['learner_busy']:.0%}",
                flush=True,
            )
    return rows


def main() -> None:
    """Print the study and write it down."""
    parser = argparse.ArgumentParser(description="Gains of bounded staleness on a simulated clock.")
    parser.add_argument("--generators", type=int, nargs="+", default=[8, 64, 256])
    parser.add_argument("--sigma", type=float, default=1.0, help="of the logarithm of lengths")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--output", type=Path)
    chosen = parser.parse_args()
    rows = []
    for generators in chosen.generators:
        # As many responses a step as the generators run at once.
        load = Workload(generators, prompts_per_step=16 * generators, steps=chosen.steps, sigma=chosen.sigma)
        rows += study(load)
    if chosen.output:
        chosen.output.parent.mkdir(parents=True, exist_ok=True)
        chosen.output.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
