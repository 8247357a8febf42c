"""Numbers that are missing, and what that means: the run ends, the row is dropped, or the component counts as 0."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from mmrlhf_ray.config.rewards import EnvironmentReward, FluencyReward, FunctionReward, JudgeReward, ModelReward, Reward
from mmrlhf_ray.errors import RunError
from mmrlhf_ray.rewards.batch import Rows

_SHOWN = 5
_REASONS = 4
"""Reasons that are listed for one component; further ones are summed up."""
_STRICTEST_FIRST = ("fail", "drop", "zero")
_CONSEQUENCE = {
    "fail": "fix it, or set on_missing to drop or zero",
    "drop": "left out of training",
    "zero": "counted as 0",
    "none": "it adds nothing to them",
}


@dataclass(frozen=True)
class Gap:
    """Rows without a number for one and the same reason."""

    who: str
    reason: str
    rows: tuple[int, ...]
    consequence: str
    """A value of `on_missing`; `none` where the component does not apply, which is only worth a warning."""

    def message(self, rows: Rows) -> str:
        """One line for people, with the first sample ids."""
        shown = ", ".join(rows.sample_ids[i] for i in self.rows[:_SHOWN])
        more = f", … and {len(self.rows) - _SHOWN} more" if len(self.rows) > _SHOWN else ""
        return (
            f"{self.who}: no number for {len(self.rows)} of {len(rows.sample_ids)} responses ({shown}{more}): "
            f"{self.reason}; {_CONSEQUENCE[self.consequence]}"
        )


def describe(reward: Reward) -> str:
    """A component by its name and what it runs, for messages. User names and passwords in addresses are left out."""
    if isinstance(reward, FluencyReward | EnvironmentReward):
        return f"reward {reward.name!r}"
    if isinstance(reward, ModelReward):
        return f"reward {reward.name!r} ({reward.model.path})"
    if isinstance(reward, FunctionReward):
        return f"reward {reward.name!r} ({reward.function})"
    address = urlsplit(reward.base_url if isinstance(reward, JudgeReward) else reward.url)
    return f"reward {reward.name!r} ({address.scheme}://{address.netloc.rpartition('@')[2]}{address.path})"


def missing(
    reward: Reward, rows: Sequence[int], numbers: Mapping[int, float], problems: Mapping[int, str]
) -> list[Gap]:
    """The gaps of one component: one for each reason, or one where it applied to none of its `rows`."""
    who = describe(reward)
    by_reason: dict[str, list[int]] = {}
    for row, reason in problems.items():
        key = reason if reason in by_reason or len(by_reason) < _REASONS else "various other reasons"
        by_reason.setdefault(key, []).append(row)
    if rows and not numbers and not problems:
        return [Gap(who, "it answered None for every row it was given", tuple(rows), "none")]
    return [Gap(who, reason, tuple(own), reward.on_missing) for reason, own in by_reason.items()]


def unscored(routes: Sequence[tuple[Reward, Collection[int]]], rows: Sequence[int]) -> list[Gap]:
    """The gaps of rows that no component scored: the strictest `on_missing` of those routed to a row decides."""
    groups: dict[tuple[str, str, str], list[int]] = {}
    for row in rows:
        asked = [reward for reward, own in routes if row in own]
        strictest = next((c for c in _STRICTEST_FIRST if c in {r.on_missing for r in asked}), "fail")
        if asked:
            key = ("all rewards", f"{', '.join(map(describe, asked))} returned None (not applicable)", strictest)
        else:
            key = ("all rewards", "none is for their tasks and modalities (widen `tasks` or `modalities`)", strictest)
        groups.setdefault(key, []).append(row)
    return [Gap(who, reason, tuple(own), strictest) for (who, reason, strictest), own in groups.items()]


def settle(gaps: Sequence[Gap], rows: Rows) -> tuple[set[int], list[str]]:
    """The rows to drop, and a warning for each gap. Raises RunError where one of them ends the run."""
    fatal = [gap.message(rows) for gap in gaps if gap.consequence == "fail"]
    if fatal:
        raise RunError("\n  ".join(["scores are missing:", *fatal]))
    dropped = {row for gap in gaps if gap.consequence == "drop" for row in gap.rows}
    return dropped, [gap.message(rows) for gap in gaps]
