"""The figures that a run is judged by: which they are for each job, and where they ended."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

FIGURES: Mapping[str, Sequence[str]] = {
    "sft": ("loss", "eval_loss"),
    "reward-model": ("loss", "pair_accuracy", "eval_pair_accuracy"),
    "preference": ("loss", "preference_accuracy", "eval_preference_accuracy"),
    "ppo": ("score", "kl", "response_tokens", "eval_score"),
    "discrete": ("loss", "heldout_score"),
    "behaviour": ("true_return", "heldout_agreement", "cost"),
}
"""Job → metrics of which it is said how they changed."""
_HELD_OUT = ("eval_", "heldout_")
_PART = 10
"""The first and the last one in so many logged steps are compared, since single steps scatter."""


@dataclass(frozen=True)
class Figure:
    """One figure at the end of a run, or as far as it has come."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    """Of its 95 % interval."""
    first: float | None = None
    """What it began with."""

    def __str__(self) -> str:
        return f"{self.name} {self.text}"

    @property
    def text(self) -> str:
        """The value, with its interval where there is one."""
        if self.low is None or self.high is None:
            return f"{self.value:.4g}"
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


def last_figures(job: str, metrics: Sequence[Mapping[str, Any]], evaluation: Mapping[str, Any]) -> list[Figure]:
    """The figures of a job, the one that counts most first: scores of an evaluation, or else metrics."""
    names = sorted(FIGURES.get(job, ()), key=lambda name: not name.startswith(_HELD_OUT))
    return [*_evaluated(evaluation), *(figure for name in names for figure in _at(name, metrics))]


def parts(values: Sequence[float]) -> tuple[float, float]:
    """Means over the first and the last part of a metric's values."""
    count = max(1, len(values) // _PART)
    return sum(values[:count]) / count, sum(values[-count:]) / count


def _at(name: str, metrics: Sequence[Mapping[str, Any]]) -> Iterator[Figure]:
    rows = [row for row in metrics if row.get(name) is not None]
    if not rows:
        return
    first, last = parts([row[name] for row in rows])
    low, high = (rows[-1].get(f"{name}_{end}") for end in ("low", "high"))
    if low is not None and high is not None:  # an evaluation's own interval is of that evaluation alone
        yield Figure(name, rows[-1][name], low, high, rows[0][name] if len(rows) > 1 else None)
    else:
        yield Figure(name, last, first=first if len(rows) > 1 else None)


def _evaluated(evaluation: Mapping[str, Any]) -> Iterator[Figure]:
    for label, entry in evaluation.items():
        score = entry.get("score") if isinstance(entry, Mapping) else None
        if isinstance(score, Mapping):
            yield Figure(f"score of {label}", score["estimate"], score["low"], score["high"])
