"""The stream: prompts flow through generators and judges into a buffer, and leave it as the batches of the steps."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import ray

from mmrlhf_ray.config import PPOConfig
from mmrlhf_ray.data.batches.ragged import Ragged
from mmrlhf_ray.errors import DeadlineExceeded, RoleFailed
from mmrlhf_ray.pipelines.ppo.ahead import PromptsAhead
from mmrlhf_ray.pipelines.ppo.choosing import Choosing
from mmrlhf_ray.pipelines.ppo.judged import Group, Judged, Judging, ask_judges, batch_of
from mmrlhf_ray.pipelines.ppo.proof import Proofs
from mmrlhf_ray.pipelines.ppo.state import DriverState
from mmrlhf_ray.pipelines.ppo.verdicts import check_left, mixed_for_verdict, verdicts
from mmrlhf_ray.rewards.mixture import MixtureState
from mmrlhf_ray.rollout.admission import admissible
from mmrlhf_ray.rollout.batch import Prompts, Rollouts, TakeStats, concat_prompts, concat_rollouts
from mmrlhf_ray.rollout.buffer import Buffer, Leave
from mmrlhf_ray.rollout.busy import Busy
from mmrlhf_ray.rollout.ledger import Consumed, Ledger
from mmrlhf_ray.rollout.selection import PassRates
from mmrlhf_ray.weights.layout import InFlight
from mmrlhf_ray.workers.fleet import Fleet
from mmrlhf_ray.workers.roles.generator import Asked, one_by_one

T = TypeVar("T")
_ENCODED_AT_ONCE = 8
"""Prompts in one call to the encoder, where the first of them are waited for."""
_ATTEMPTS = 3
"""At one thing that a generator died on."""
_JUDGED_AT_ONCE = 2
"""Calls to the judges at a time: while one is answered the next one waits in their queue, and what is finished
meanwhile goes together."""


@dataclass
class Passed:
    """What happened in the stream since the batch before."""

    left: Counter[Leave] = field(default_factory=Counter)
    without_score: int = 0
    """Responses that no score came back for."""
    seconds: float = 0.0
    """That a generator was at work."""
    generators: int = 0
    """That serve when the batch is taken."""
    sampled_tokens: int = 0
    encoding: TakeStats = field(default_factory=lambda: TakeStats.sum([]))
    selection: dict[str, float] = field(default_factory=dict)
    """Metrics of it."""
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Batch:
    """What a step trains on."""

    judged: Judged
    ages: Sequence[int]
    """Of each group: versions that the policy is ahead of the oldest weights that sampled any of it."""
    waits: Sequence[float]
    """Of each group: seconds since it was asked for."""
    passed: Passed


class Stream:
    """Asks for groups as far as admission allows, has them judged, and keeps those that can be learned from."""

    def __init__(self, fleet: Fleet, cfg: PPOConfig, state: DriverState, version: int):
        """`version`: of the policy's weights, that is, steps done."""
        self._fleet, self._cfg, self._mixture = fleet, cfg, state.mixture
        self._size, self._in_turns = cfg.algorithm.prompts_per_step, cfg.stream.in_turns
        self._ledger = Ledger(state.consumed)
        self._buffer: Buffer[Group] = Buffer(self._size, cfg.stream.max_staleness, self._ledger, version)
        self._prompts = PromptsAhead(fleet.prompts, self._ledger)
        self._sampling: list[Asked] = []
        self._unanswered: list[Prompts] = []
        """Groups whose generator died."""
        self._failures: Counter[int] = Counter()
        """Position → how often asking for its group failed."""
        self._sampled: list[Rollouts] = []
        self._judging: list[Judging] = []
        self._choosing = Choosing.of(cfg, fleet.prompts.rows, state.pass_rates)
        self._since: dict[int, float] = {}
        """Position → when it was asked for."""
        self._busy, self._proofs = Busy(len(fleet.generators.group)), Proofs(fleet, cfg)
        self._passed, self._learning = Passed(), False

    @property
    def version(self) -> int:
        """Of the policy's weights."""
        return self._buffer.version

    @property
    def consumed(self) -> Consumed:
        """The positions that are used up, for a checkpoint after push()."""
        return self._ledger.consumed

    @property
    def pass_rates(self) -> PassRates:
        """Of the prompts, for a checkpoint."""
        return self._choosing.known if self._choosing else PassRates()

    def take(self, mixture: MixtureState) -> Batch:
        """The next batch: exactly `prompts_per_step` groups in the order of their positions. `mixture`: the state of
        the rewards, which says what the groups' scores are worth.

        Raises RunError where nothing can be learned, and what a role raised.
        """
        self._mixture = mixture
        self._flow()
        while not self._buffer.can_take():
            self._wait(())
            self._flow()
        ready, now = self._buffer.take(), time.monotonic()
        ages = [self.version - group.version for group in ready]
        waits = [now - self._since.pop(group.position) for group in ready]
        passed, self._passed, self._learning = self._passed, Passed(), True
        passed.left, passed.encoding = Counter(self._buffer.left), self._prompts.stats
        passed.seconds += self._busy.drain(self._serving)
        passed.generators = self._serving
        if self._choosing:
            passed.selection = self._choosing.metrics() | {"prompts_skipped": float(passed.left[Leave.SKIPPED])}
            passed.warnings += self._choosing.warnings()
        self._buffer.left.clear()
        self._prompts.stats = TakeStats.sum([])
        self._flow()
        return Batch(batch_of([group.group for group in ready]), ages, waits, passed)

    def tend(self, refs: Sequence["ray.ObjectRef[Any]"]) -> None:
        """Until all of `refs` are there (or failed), or the time for a stage is over: keep the stream flowing."""
        until, waiting = time.monotonic() + self._cfg.deadlines.stage_s, list(refs)
        while not self._in_turns and waiting and time.monotonic() < until:
            there = self._wait(waiting)
            waiting = [ref for ref in waiting if ref not in there]
            self._flow()

    def sample(self, prompts: Prompts, n_samples: int) -> Rollouts:
        """Responses that are not learned from, by the policy as it is; the stream flows meanwhile."""
        generators = self._fleet.generators
        if self._in_turns:
            return self._again(lambda: self._generated(prompts, n_samples), self.version)
        asked = [generators.ask(prompt, n_samples) for prompt in one_by_one(prompts)]
        self.tend([group.ref for group in asked])
        return concat_rollouts([self._answer(group, n_samples) for group in asked])

    def _generated(self, prompts: Prompts, n_samples: int) -> Rollouts:
        self._fleet.begin("generate")
        return self._fleet.generators.generate(prompts, n_samples)

    def _answer(self, asked: Asked, n_samples: int) -> Rollouts:
        for _ in range(_ATTEMPTS - 1):
            try:
                return self._fleet.generators.answer(asked)
            except RoleFailed as error:
                self._revive(error, self.version)
                asked = self._fleet.generators.ask(asked.prompts, n_samples)
        return self._fleet.generators.answer(asked)

    def _again(self, call: Callable[[], T], version: int) -> T:
        """`call()`, made again where a generator dies on it; `version` is that of the policy's weights."""
        for _ in range(_ATTEMPTS - 1):
            try:
                return call()
            except RoleFailed as error:
                self._revive(error, version)
        return call()

    def _revive(self, error: RoleFailed, version: int) -> None:
        self._fleet.revive(error, version)
        self._proofs.check()

    def push(self) -> int:
        """The policy's weights to all generators, as the next version. Returns the bytes sent to each."""
        in_flight = self._cfg.stream.in_flight if self._cfg.stream.max_staleness else "finish"
        new = self.version + 1
        sent = self._again(lambda: self._pushed(new, in_flight), new)
        self._buffer.advance()
        self._learning = False
        return sent

    def _pushed(self, version: int, in_flight: InFlight) -> int:
        sent = self._fleet.push(version, in_flight)
        self._proofs.check()
        return sent

    def _flow(self) -> None:
        """Start all that can be started; nothing waits, but for a step whose groups are sampled together."""
        if self._in_turns:
            self._admit_together()
        else:
            self._admit()
        if self._sampled and len(self._judging) < _JUDGED_AT_ONCE:
            rollouts, self._sampled = concat_rollouts(self._sampled), []
            self._judging.append(ask_judges(self._fleet, self._cfg, rollouts, self.version))

    @property
    def _admissible(self) -> int:
        stream = self._cfg.stream
        return admissible(
            running=self._buffer.running,
            accepted=(self.version + self._learning) * self._size + self._buffer.ready,
            version=self.version,
            prompts_per_step=self._size,
            max_staleness=stream.max_staleness,
            max_running=stream.max_running,
            oversample=stream.oversample,
            steps=self._cfg.steps,
        )

    def _admit_together(self) -> None:
        count = 0 if self._buffer.running else self._admissible
        if count and not self._buffer.can_take():
            prompts = self._take_joined(count)
            self._proofs.keep(prompts)
            self._start(prompts.table.column("group_id").to_pylist())
            self._encode_ahead(self._size)
            samples = self._cfg.algorithm.n_samples_per_prompt
            rollouts = self._again(lambda: self._generated(prompts, samples), self.version)
            self._passed.seconds += rollouts.seconds
            self._note_sampled(rollouts)

    def _admit(self) -> None:
        self._encode_ahead(_ENCODED_AT_ONCE)
        if not self._serving:  # all generators died while the policy was learning: the next push brings them back
            return
        again, self._unanswered = self._unanswered, []
        for prompt in again:
            self._ask(prompt)
        while count := min(self._admissible, self._prompts.encoded):
            for part in map(self._chosen, self._prompts.take(count)):
                self._proofs.keep(part)
                for prompt in one_by_one(part):
                    self._start(prompt.table.column("group_id").to_pylist())
                    self._ask(prompt)
        if self._choosing:
            self._encode_ahead(_ENCODED_AT_ONCE)  # again, for those that were skipped

    def _take_joined(self, count: int) -> Prompts:
        """The next `count` prompts that are not skipped, as one."""
        parts: list[Prompts] = []
        while count:
            parts.append(self._chosen(self._prompts.take_joined(count)))
            count -= len(parts[-1].table)
        return concat_prompts([part for part in parts if len(part.table)])

    def _chosen(self, prompts: Prompts) -> Prompts:
        """Without those whose pass rate lets them be skipped, which are used up."""
        if self._choosing is None:
            return prompts
        taken, skipped = self._choosing.divide(prompts.table, self.version)
        for position in skipped:
            self._buffer.start(position)
            self._buffer.drop(position, Leave.SKIPPED)
        return prompts.select(taken) if skipped else prompts

    @property
    def _serving(self) -> int:
        """Generators that take groups."""
        return len(self._fleet.generators.routing.serving)

    def _ask(self, prompt: Prompts) -> None:
        asked = self._fleet.generators.ask(prompt, self._cfg.algorithm.n_samples_per_prompt)
        self._busy.start(asked.engine)
        self._sampling.append(asked)

    def _encode_ahead(self, at_once: int) -> None:
        """A batch beyond what is asked for, unless the run is over before."""
        to_come = (self._cfg.steps - self.version - self._learning) * self._size
        to_come -= self._buffer.ready + self._buffer.running
        wanted = max(min(self._size, to_come), self._admissible)
        self._prompts.ask(wanted - self._prompts.waiting, at_once)

    def _start(self, positions: Sequence[int]) -> None:
        for position in positions:
            self._buffer.start(position)
            self._since[position] = time.monotonic()

    def _note_sampled(self, rollouts: Rollouts) -> None:
        self._sampled.append(rollouts)
        sampled = Ragged.of_column(rollouts.table.column("response_mask"))
        self._passed.sampled_tokens += int(sampled.values.sum())

    def _wait(self, others: Sequence["ray.ObjectRef[Any]"]) -> set["ray.ObjectRef[Any]"]:
        """Wait until something is there, and note all that is. Returns those of `others` that are there.

        Raises DeadlineExceeded where nothing comes for as long as a stage may take, and what a role raised.
        """
        judges = {id(judging): _missing(judging.refs) for judging in self._judging}
        prompts = _missing(self._prompts.refs)
        encoded = bool(self._prompts.refs) and not prompts
        there: set[ray.ObjectRef[Any]] = set()
        if all(judges.values()) and not encoded:  # else something is there already
            own = [*(asked.ref for asked in self._sampling), *prompts[:1]]
            there = _there([*own, *(refs[0] for refs in judges.values()), *others], self._cfg.deadlines.stage_s)
            if not there and self._asked:  # else the caller knows who was to give `others`
                raise DeadlineExceeded(
                    f"nothing came for {self._cfg.deadlines.stage_s:g} s from {', '.join(self._asked)}; raise "
                    "deadlines.stage_s if this is expected"
                )
        if encoded or (prompts and there.issuperset(prompts)):
            self._prompts.collect()
        for asked in [asked for asked in self._sampling if asked.ref in there]:
            self._sampling.remove(asked)
            self._busy.end(asked.engine)
            try:
                self._note_sampled(self._fleet.generators.answer(asked))
            except RoleFailed as error:
                position = asked.prompts.table.column("group_id")[0].as_py()
                self._failures[position] += 1
                if self._failures[position] == _ATTEMPTS:
                    raise
                self._unanswered.append(asked.prompts)
                if not self._serving and not self._learning:
                    self._revive(error, self.version)
        for judging in [judging for judging in self._judging if not judges[id(judging)]]:
            self._judging.remove(judging)
            self._decide(judging.result())
        return there.intersection(others)

    @property
    def _asked(self) -> list[str]:
        """Names of the actors that owe an answer."""
        names = {self._fleet.generators.group.names[asked.engine] for asked in self._sampling}
        names |= {name for judging in self._judging for name in judging.names}
        return sorted(names | set(self._fleet.prompts.group.names if self._prompts.refs else ()))

    def _decide(self, judged: Judged) -> None:
        mixed = mixed_for_verdict(self._cfg, judged, self._mixture)
        self._passed.warnings += mixed.warnings
        self._passed.without_score += mixed.keep.count(False)
        if self._choosing:
            self._choosing.note(judged, mixed)
        versions = judged.rollouts.table.column("policy_version").to_numpy()
        for position, group, why in verdicts(self._cfg, judged, mixed):
            if why is None:
                self._buffer.accept(position, int(versions[group.rows.start : group.rows.stop].min()), group)
            else:
                self._buffer.drop(position, why)
        check_left(self._cfg, self._buffer.left, self._buffer.ready, self._passed.warnings)


def _missing(refs: Sequence["ray.ObjectRef[Any]"]) -> list["ray.ObjectRef[Any]"]:
    """Those that are not there yet."""
    _, missing = ray.wait(list(refs), num_returns=len(refs), timeout=0)
    return missing


def _there(refs: Sequence["ray.ObjectRef[Any]"], seconds: float) -> set["ray.ObjectRef[Any]"]:
    """All that are there once one is; empty where none is in time."""
    wanted = list(dict.fromkeys(refs))
    ready, _ = ray.wait(wanted, num_returns=1, timeout=seconds)
    ready, _ = ray.wait(wanted, num_returns=len(wanted), timeout=0) if ready else (ready, [])
    return set(ready)
