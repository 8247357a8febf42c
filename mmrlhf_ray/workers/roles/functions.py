"""Rewards that are computed from text (functions, remote services, judges), and all rewards as the driver asks them."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import pyarrow as pa
import ray

from mmrlhf_ray.config.rewards import EnvironmentReward, ModelReward
from mmrlhf_ray.data.encoding.encode import decode_response, load_encoder
from mmrlhf_ray.data.media import MediaRow
from mmrlhf_ray.rewards.batch import PromptLookup, RewardBatch
from mmrlhf_ray.rewards.components import Component, TextReward, component, score_own, shows_media
from mmrlhf_ray.rewards.episodes import environment_scores
from mmrlhf_ray.rewards.scores import ComponentScores
from mmrlhf_ray.rollout.batch import Rollouts, rollouts_of, shown
from mmrlhf_ray.rollout.by_turn import earlier_messages, rows_by_turn
from mmrlhf_ray.rollout.episode import answer_of
from mmrlhf_ray.runtime.actors import ActorGroup
from mmrlhf_ray.schema import PROMPT, ROLLOUT, check
from mmrlhf_ray.workers.roles.answers import Answer, Pending
from mmrlhf_ray.workers.roles.scorer import Scorers

Computed = tuple[dict[str, ComponentScores], float]
"""Component → its scores of all rows, and the seconds it took."""


class RewardFunctions:
    """Scores ROLLOUT rows by every component at once, each bounded by its own deadline.

    Processes of functions end with the actor, however it ends.
    """

    def __init__(
        self,
        components: Sequence[TextReward],
        prompts: pa.Table,
        model_path: str,
        allowed: Sequence[str] = (),
        columns: frozenset[str] = frozenset(),
    ):
        """`columns`: keys of extras that batches have even where no prompt of `prompts` does."""
        self._rewards = tuple(components)
        self._components: tuple[Component, ...] = tuple(component(reward) for reward in components)
        self._prompts = PromptLookup(check(prompts, PROMPT, "RewardFunctions"), columns)
        self._encoder = load_encoder(model_path, allowed=allowed)
        self._started = False

    @ray.method
    def ready(self) -> None:
        """Start the components. Raises ConfigError when one of them cannot work on this machine."""
        self._start()

    def _start(self) -> None:
        if self._started:
            return
        with ThreadPoolExecutor(len(self._components)) as pool:
            list(pool.map(lambda own: own.start(), self._components))
        self._started = True

    @ray.method
    def score(self, rollouts: pa.Table, prompts: pa.Table | None, *media: pa.Table) -> Computed:
        """Each component's scores by its name, one entry per row, and the seconds it took.

        A component is only given rows of its tasks and modalities; it does not apply to the others. One that scores
        turns is given each turn of the policy as a response to all before it, with its number, from 1, in the column
        `turn`. `prompts`: PROMPT of these rows; None = those that the actor was started with. `media`: MEDIA of all
        that they show, where a component is shown media.
        """
        self._start()  # an actor that was started again is asked at once
        start = time.monotonic()
        table = check(rollouts, ROLLOUT, "RewardFunctions.score")
        known = self._prompts if prompts is None else PromptLookup(prompts, self._prompts.extras_columns)
        clips = {row["media_id"]: row for own in media for row in own.to_pylist()}
        batch = self._batch(table, known, clips)
        turns, owners = self._turns(table, known, clips) if any(r.per_turn for r in self._rewards) else (batch, [])

        def ask(reward: TextReward, own: Component) -> ComponentScores:
            if not reward.per_turn:
                return score_own(reward, own, batch)
            return ComponentScores.of_turns(score_own(reward, own, turns), owners, len(table))

        with ThreadPoolExecutor(len(self._components)) as pool:
            answers = list(pool.map(ask, self._rewards, self._components))
        return {r.name: a for r, a in zip(self._rewards, answers, strict=True)}, time.monotonic() - start

    def _batch(self, table: pa.Table, prompts: PromptLookup, clips: Mapping[str, MediaRow]) -> RewardBatch:
        columns = (table.column(name).to_pylist() for name in ("response_token_ids", "segments"))
        completions = [decode_response(self._encoder, answer_of(*own)) for own in zip(*columns, strict=True)]
        return prompts.batch(table, completions, clips if any(map(shows_media, self._rewards)) else None)

    def _turns(
        self, table: pa.Table, prompts: PromptLookup, clips: Mapping[str, MediaRow]
    ) -> tuple[RewardBatch, list[int]]:
        """The policy's turns as responses, and the row of `table` that each is of."""
        rows, owners = rows_by_turn(table)
        batch, before = self._batch(rows, prompts, clips), earlier_messages(self._encoder, table)
        asked = tuple([*prompt, *said] for prompt, said in zip(batch.prompts, before, strict=True))
        counts = Counter(owners)
        modalities = table.column("modality").to_pylist()  # which components score it does not change with a turn
        own = [modalities[owner] for owner in owners]
        turn = [number for owner in range(len(table)) for number in range(1, counts[owner] + 1)]
        columns = {**batch.columns, "modality": own, "turn": turn, "turns": [counts[owner] for owner in owners]}
        return replace(batch, prompts=asked, modalities=tuple(own), columns=columns), owners

    def close(self) -> None:
        """End the processes of functions."""
        for own in self._components:
            own.close()


@ray.remote(num_cpus=0)
def _join_prompts(*tables: pa.Table) -> pa.Table:
    """PROMPT of several rounds, joined where they lie."""
    return pa.concat_tables(tables)


@dataclass(frozen=True)
class Functions:
    """The one actor of computed rewards."""

    group: ActorGroup[RewardFunctions]
    deadline_s: float
    show_media: bool = False
    """Whether a component is shown media."""

    def wait_ready(self, seconds: float) -> None:
        """Until every component has started. Raises ConfigError where one cannot work, DeadlineExceeded."""
        self.group.wait([handle.ready.remote() for handle in self.group.handles], seconds, "starting the rewards")

    def ask(self, rollouts: Rollouts) -> "ray.ObjectRef[Computed]":
        """Scores of every row by every component; nothing blocks."""
        prompts = rollouts.prompts
        joined = prompts[0] if len(prompts) == 1 else _join_prompts.remote(*prompts) if prompts else None
        clips = dict.fromkeys(rollouts.media[name] for name in shown(rollouts.table)) if self.show_media else ()
        return self.group.handles[0].score.remote(rollouts.ref, joined, *clips)


@dataclass(frozen=True)
class Rewards:
    """Everything that scores a response. A role is None where no reward asks for it."""

    scorers: Scorers | None
    model_rewards: tuple[ModelReward, ...]
    """The rewards whose models the scorers hold, in this order."""
    functions: Functions | None
    environment_rewards: tuple[EnvironmentReward, ...] = ()

    def ask(self, rollouts: Rollouts) -> "PendingScores":
        """Ask every component; nothing blocks."""
        models = turns = None
        owners: list[int] = []
        if self.scorers is not None and not all(reward.per_turn for reward in self.model_rewards):
            models = self.scorers.ask(rollouts)
        if self.scorers is not None and any(reward.per_turn for reward in self.model_rewards):
            table, owners = rows_by_turn(rollouts.table)
            turns = self.scorers.ask(rollouts_of(table, rollouts.features))
        functions = self.functions.ask(rollouts) if self.functions else None
        given = {
            reward.name: environment_scores(rollouts.table, per_turn=reward.per_turn)
            for reward in self.environment_rewards
        }
        return PendingScores(self, models, turns, owners, functions, given)


@dataclass(frozen=True)
class PendingScores:
    """Reward components at work."""

    rewards: Rewards
    models: Pending | None
    """Each row (score, uncertainty) of one model after the other."""
    turns: Pending | None
    """The same of each turn, for models that score turns."""
    owners: Sequence[int]
    """The row of each turn."""
    functions: "ray.ObjectRef[Computed] | None"
    given: dict[str, ComponentScores]
    """By the environment, with the episodes."""

    @property
    def refs(self) -> list["ray.ObjectRef[Answer] | ray.ObjectRef[Computed]"]:
        """What must be there for result() not to block."""
        models = [ref for pending in self._pending for ref in pending.refs]
        return [*models, *([self.functions] if self.functions else ())]

    @property
    def names(self) -> list[str]:
        """Of the actors that were asked."""
        functions = self.rewards.functions
        models = [name for pending in self._pending for name in pending.names]
        return [*models, *(functions.group.names if functions else ())]

    @property
    def _pending(self) -> list[Pending]:
        return [pending for pending in (self.models, self.turns) if pending is not None]

    def result(self) -> Computed:
        """Component → scores of all rows, and the seconds of the slowest actor."""
        answers, slowest = dict(self.given), 0.0
        for pending in self._pending:
            rows, seconds = pending.result()
            slowest, columns = max(slowest, seconds), rows.values.reshape(len(rows), -1)
            for number, reward in enumerate(self.rewards.model_rewards):
                scores = columns[:, 2 * number] - reward.uncertainty_coef * columns[:, 2 * number + 1]
                said = ComponentScores.of(scores.tolist())
                if pending is self.models and not reward.per_turn:
                    answers[reward.name] = said
                elif pending is self.turns and reward.per_turn:
                    answers[reward.name] = ComponentScores.of_turns(said, self.owners, max(self.owners) + 1)
        if self.functions is not None and self.rewards.functions is not None:
            role = self.rewards.functions
            ((computed, seconds),) = role.group.wait([self.functions], role.deadline_s, "computing rewards")
            answers, slowest = answers | computed, max(slowest, seconds)
        return answers, slowest
