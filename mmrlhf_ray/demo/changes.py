"""What PPO changed, prompt by prompt: differences with their intervals, and the sentence that sums them up."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mmrlhf_ray.algorithms.statistics import Interval, mean_interval
from mmrlhf_ray.demo.scoring import ScoredResponse, number

_MEASURES: Mapping[str, Callable[[ScoredResponse], float]] = {
    "gold": lambda response: response.gold.total,
    "accuracy": lambda response: float(response.gold.correct),
    "grounded": lambda response: float(response.gold.grounded),
}
_SPOKEN = {"gold": "gold reward", "accuracy": "accuracy", "grounded": "grounding"}


@dataclass(frozen=True)
class Change:
    """One measure before and after, over the same prompts."""

    measure: str
    before: float
    after: float
    delta: Interval
    """Mean of the differences prompt by prompt, with its 95 % interval."""

    @property
    def direction(self) -> str:
        """better or worse where the interval lies on one side of zero, else same."""
        return "better" if self.delta.low > 0 else "worse" if self.delta.high < 0 else "same"

    @property
    def text(self) -> str:
        """The difference with its sign, and the interval."""
        return f"{signed(self.delta.estimate)} [{signed(self.delta.low)}, {signed(self.delta.high)}]"


@dataclass(frozen=True)
class GroupChange:
    """The changes of one task, one modality, or of all responses."""

    name: str
    n: int
    """Prompts."""
    changes: Mapping[str, Change]
    """Of each measure."""

    @property
    def worse(self) -> list[Change]:
        """Those that are worse beyond chance."""
        return [change for change in self.changes.values() if change.direction == "worse"]


def overall_change(before: Sequence[ScoredResponse], after: Sequence[ScoredResponse]) -> GroupChange:
    """Over all prompts. Both policies answered the same, at least one."""
    return _changed("all", before, after)


def group_changes(
    before: Sequence[ScoredResponse], after: Sequence[ScoredResponse], key: Callable[[ScoredResponse], str]
) -> list[GroupChange]:
    """By task or modality: what is worse beyond chance comes first, then the smallest change of the gold reward."""
    names = sorted({key(response) for response in after})
    found = [
        _changed(name, [r for r in before if key(r) == name], [r for r in after if key(r) == name]) for name in names
    ]
    return sorted(found, key=lambda group: (not group.worse, group.changes["gold"].delta.estimate))


def headline(overall: GroupChange, tasks: Sequence[GroupChange]) -> str:
    """What happened, in one or two sentences with numbers."""
    gold, accuracy = overall.changes["gold"], overall.changes["accuracy"]
    verb = {"better": "raised", "worse": "lowered", "same": "left"}[gold.direction]
    said = (
        f"PPO {verb} the gold reward from {number(gold.before)} to {number(gold.after)} ({gold.text}); "
        f"accuracy went from {number(accuracy.before)} to {number(accuracy.after)} ({accuracy.text})."
    )
    if gold.direction == "same":
        said = said.replace("left the gold reward from", "left the gold reward about where it was, from")
    worse = [
        f"{task.name.replace('_', ' ')} ({_SPOKEN[change.measure]} {number(change.before)} → {number(change.after)})"
        for task in tasks
        for change in task.worse[:1]
    ]
    return f"{said} It got worse at {', '.join(worse)}." if worse else f"{said} No task got worse beyond chance."


def signed(value: float, digits: int = 3) -> str:
    """With its sign; zero has none."""
    text = f"{value:+.{digits}f}"
    return f"{0:.{digits}f}" if float(text) == 0 else text.replace("-", "−")


def _changed(name: str, before: Sequence[ScoredResponse], after: Sequence[ScoredResponse]) -> GroupChange:
    changes = {}
    n = 0
    for measure, of in _MEASURES.items():
        own, other = _by_prompt(before, of), _by_prompt(after, of)
        prompts = sorted(own.keys() & other.keys())
        n = len(prompts)
        first, last = (np.array([found[prompt] for prompt in prompts]) for found in (own, other))
        changes[measure] = Change(measure, float(first.mean()), float(last.mean()), mean_interval(last - first))
    return GroupChange(name, n, changes)


def _by_prompt(responses: Sequence[ScoredResponse], of: Callable[[ScoredResponse], float]) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for response in responses:
        values.setdefault(response.prompt_id, []).append(of(response))
    return {prompt: float(np.mean(own)) for prompt, own in values.items()}
