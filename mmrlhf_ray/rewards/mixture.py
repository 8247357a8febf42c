"""From the components' numbers to one score per response: weights, routing, normalisation, costs, missing numbers."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from mmrlhf_ray.algorithms.lagrange import LagrangeMultiplier
from mmrlhf_ray.algorithms.statistics import RunningMoments, normalised_in_groups
from mmrlhf_ray.algorithms.transform import log_sigmoid_score
from mmrlhf_ray.config.rewards import CostConfig, Reward
from mmrlhf_ray.errors import RunError
from mmrlhf_ray.rewards.batch import Rows
from mmrlhf_ray.rewards.gaps import Gap, missing, settle, unscored
from mmrlhf_ray.rewards.scores import ComponentScores


def multiplier_of(cost: CostConfig) -> LagrangeMultiplier:
    """A cost's multiplier before the first step."""
    return LagrangeMultiplier(
        integral=cost.initial_multiplier,
        bound=cost.bound,
        lr=cost.multiplier_lr,
        maximum=cost.max_multiplier,
        damping=cost.multiplier_damping,
    )


@dataclass(frozen=True)
class MixtureState:
    """The state that a mixture carries from step to step."""

    moments: Mapping[str, RunningMoments]
    """Of each component that is normalised."""
    multipliers: Mapping[str, LagrangeMultiplier]
    """λ of each cost."""

    @classmethod
    def start(cls, rewards: Sequence[Reward]) -> "MixtureState":
        """Before the first step."""
        return cls(
            {r.name: RunningMoments() for r in rewards if r.normalise is True},
            {r.name: multiplier_of(r.cost) for r in rewards if r.cost is not None},
        )

    def restricted(self, names: Collection[str]) -> "MixtureState":
        """Of these components alone."""
        return MixtureState(
            {name: m for name, m in self.moments.items() if name in names},
            {name: m for name, m in self.multipliers.items() if name in names},
        )

    def to_dict(self) -> dict[str, Any]:
        """For checkpoints; JSON can hold it."""
        return {
            "moments": {name: m.to_dict() for name, m in self.moments.items()},
            "multipliers": {name: m.to_dict() for name, m in self.multipliers.items()},
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> "MixtureState":
        """The inverse of `to_dict`."""
        return cls(
            {name: RunningMoments.from_dict(m) for name, m in state["moments"].items()},
            {name: LagrangeMultiplier.from_dict(m) for name, m in state["multipliers"].items()},
        )


@dataclass(frozen=True)
class Mixed:
    """One step's scores."""

    scores: tuple[float, ...]
    """Of each row; NaN where the row is not kept."""
    keep: tuple[bool, ...]
    """False: the row is left out of training, as a component's `on_missing: drop` asks."""
    state: MixtureState
    """For the next step; has seen this one."""
    metrics: dict[str, float]
    """Of each component: `reward_<name>` or `cost_<name>`, the mean as it came, NaN without any number;
    `missing_<name>`, the share of its rows without a number; `side_changes_<name>`, of a judge that compares, the share
    of comparisons in which swapped sides had another winner; `lagrange_<name>`, the multiplier that was used."""
    warnings: tuple[str, ...]
    """Which numbers are missing, and what that meant."""
    turns: tuple[tuple[float, ...], ...] = ()
    """What counts at each row's turns, weighted as in its score, which has their sum; () for a row without any, and
    where no component scores turns."""


@dataclass(frozen=True)
class _Part:
    """One component's answer to the rows that it is for."""

    reward: Reward
    rows: list[int]
    numbers: dict[int, float]
    """Row → number, as it came."""
    problems: dict[int, str]
    """Row → why there is no number. The component does not apply to rows in neither."""
    side_changes: list[float]
    """As of ComponentScores, of the rows that have one."""
    turns: dict[int, tuple[float | None, ...]]
    """Row → its turns' numbers, where the component scores turns."""

    @property
    def mean(self) -> float:
        return fmean(self.numbers.values()) if self.numbers else math.nan


def routed(reward: Reward, rows: Rows) -> list[int]:
    """The rows that the component scores, by its `tasks` and `modalities`."""
    return [
        i
        for i, (task, modality) in enumerate(zip(rows.tasks, rows.modalities, strict=True))
        if (reward.tasks is None or task in reward.tasks)
        and (reward.modalities is None or modality in reward.modalities)
    ]


def mix(rewards: Sequence[Reward], answers: Mapping[str, ComponentScores], rows: Rows, state: MixtureState) -> Mixed:
    """One score per row: (Σ weight·reward − Σ λ·cost) / (1 + Σ λ), sums over what applies to the row, each reward as
    `normalise` or `log_sigmoid_around` has it.

    answers: of each component by name, one entry per row of `rows`. A None without a problem adds nothing.
    `normalise: group`: minus the mean and divided by the standard deviation of the component's own numbers in the row's
    group, as GDPO does (Liu et al. 2026); with `advantage_estimator: dr_grpo` and `whiten: full` that is its advantage.
    Of a component that scores turns (`per_turn`), of its numbers for all turns of the group's rows, as process
    supervision in Shao et al. 2024 has it (section 4.1.3); a row's number is then the sum over its turns.
    λ is that of `state`; afterwards it moves with this step's mean cost, which is taken as it came even where
    `normalise` is set. Moments see this step's numbers before these are normalised. Without any reward all scores
    are 0. With several costs the formula is that of `algorithms.lagrange.lagrangian_score`.

    Raises RunError where a number is missing and `on_missing` is `fail`, naming component, sample ids and reason. A row
    that no component scored is treated by the strictest `on_missing` of those that it was routed to.
    """
    _check(rewards, answers, rows, state)
    count = len(rows.sample_ids)
    parts = [_part(reward, answers[reward.name], rows) for reward in rewards]
    dropped, warnings = settle(_gaps(parts, count), rows)
    after = _advanced(state, parts)
    totals, turns = [0.0] * count, dict[int, list[float]]()
    divisor = 1.0 + sum(m.value for m in state.multipliers.values())
    for part in parts:
        factor = -state.multipliers[part.reward.name].value if part.reward.cost else part.reward.weight
        if part.turns:
            own = _turns_in_units(part, rows)
            values = {row: sum(of_row) for row, of_row in own.items()}
            _add_turns(turns, own, factor / divisor)
        else:
            values = _in_units(part, after, rows)
        for row, value in values.items():
            totals[row] += factor * value
    keep = tuple(row not in dropped for row in range(count))
    return Mixed(
        scores=tuple(total / divisor if kept else math.nan for total, kept in zip(totals, keep, strict=True)),
        keep=keep,
        state=after,
        metrics=_metrics(parts, state),
        warnings=tuple(warnings),
        turns=tuple(tuple(turns.get(row, ())) for row in range(count)) if turns else (),
    )


def _check(rewards: Sequence[Reward], answers: Mapping[str, ComponentScores], rows: Rows, state: MixtureState) -> None:
    start = MixtureState.start(rewards)
    for what, wanted, got in (
        ("normalised components", start.moments, state.moments),
        ("costs", start.multipliers, state.multipliers),
    ):
        if wanted.keys() != got.keys():
            raise RunError(
                f"rewards: the configuration has the {what} {sorted(wanted)}, the checkpoint {sorted(got)}; resume "
                "with the rewards that the run was started with"
            )
    for reward in rewards:
        if len(answers[reward.name].values) != len(rows.sample_ids):
            raise ValueError(
                f"answers[{reward.name!r}] expects {len(rows.sample_ids)} entries, one per row, got "
                f"{len(answers[reward.name].values)}"
            )


def _part(reward: Reward, answer: ComponentScores, rows: Rows) -> _Part:
    own = routed(reward, rows)
    values = {i: v for i in own if (v := answer.values[i]) is not None}
    problems = {i: p for i in own if (p := answer.problems[i]) is not None}
    problems |= {i: f"gave {v}" for i, v in values.items() if not math.isfinite(v)}
    changes = [change for i in own if answer.side_changes and (change := answer.side_changes[i]) is not None]
    numbers = {i: v for i, v in values.items() if i not in problems}
    turns = {i: answer.turns[i] for i in numbers} if answer.turns else {}
    return _Part(reward, own, numbers, problems, changes, turns)


def _gaps(parts: Sequence[_Part], count: int) -> list[Gap]:
    gaps = [gap for part in parts for gap in missing(part.reward, part.rows, part.numbers, part.problems)]
    if not parts:
        return gaps
    spoken_for = {row for part in parts for row in (*part.numbers, *part.problems)}
    return gaps + unscored([(p.reward, set(p.rows)) for p in parts], [i for i in range(count) if i not in spoken_for])


def _advanced(state: MixtureState, parts: Sequence[_Part]) -> MixtureState:
    by_name = {part.reward.name: part for part in parts}
    return MixtureState(
        {name: m.update(list(by_name[name].numbers.values())) for name, m in state.moments.items()},
        {name: m.update(by_name[name].mean) if by_name[name].numbers else m for name, m in state.multipliers.items()},
    )


def _in_units(part: _Part, state: MixtureState, rows: Rows) -> dict[int, float]:
    """Row → number in units of the component's moments, where it is normalised, or transformed, where that is asked."""
    around = part.reward.log_sigmoid_around
    if around is not None:
        return {i: log_sigmoid_score(v, _around(part.reward, rows.tasks[i])) for i, v in part.numbers.items()}
    if not part.reward.normalise:
        return part.numbers
    numbers = list(part.numbers.values())
    if part.reward.normalise == "group":
        values = normalised_in_groups(numbers, [rows.groups[i] for i in part.numbers])
    else:
        values = state.moments[part.reward.name].normalise(numbers)
    return dict(zip(part.numbers, values.tolist(), strict=True))


def _turns_in_units(part: _Part, rows: Rows) -> dict[int, list[float]]:
    """Row → its turns' numbers, in units of all turns of its group where that is asked; 0 for a turn without one."""
    if part.reward.normalise != "group":
        return {row: [0.0 if number is None else number for number in own] for row, own in part.turns.items()}
    places = [(row, turn) for row, own in part.turns.items() for turn, number in enumerate(own) if number is not None]
    given = [number for own in part.turns.values() for number in own if number is not None]
    found = {row: [0.0] * len(own) for row, own in part.turns.items()}
    units = normalised_in_groups(given, [rows.groups[row] for row, _ in places])
    for (row, turn), number in zip(places, units.tolist(), strict=True):
        found[row][turn] = number
    return found


def _add_turns(turns: dict[int, list[float]], own: Mapping[int, Sequence[float]], factor: float) -> None:
    for row, numbers in own.items():
        before = turns.get(row, [0.0] * len(numbers))
        turns[row] = [total + factor * number for total, number in zip(before, numbers, strict=True)]


def _around(reward: Reward, task: str) -> float:
    around = reward.log_sigmoid_around
    if isinstance(around, Mapping):
        if task not in around:
            raise RunError(
                f"rewards.{reward.name}.log_sigmoid_around expects a number for each task, got {sorted(around)} and a "
                f"row of {task!r}; add it, or restrict the component with `tasks`"
            )
        return around[task]
    return 0.0 if around is None else around


def _metrics(parts: Sequence[_Part], state: MixtureState) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for part in parts:
        name = part.reward.name
        metrics[f"{'cost' if part.reward.cost else 'reward'}_{name}"] = part.mean
        metrics[f"missing_{name}"] = len(part.problems) / len(part.rows) if part.rows else 0.0
        if part.side_changes:
            metrics[f"side_changes_{name}"] = fmean(part.side_changes)
    return metrics | {f"lagrange_{name}": m.value for name, m in state.multipliers.items()}
