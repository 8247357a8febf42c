"""How far a loop is: what is done, round by round, in one file that is replaced at once; and when to stop."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from mmrlhf_ray.config.iterate import IterateConfig
from mmrlhf_ray.errors import RunError
from mmrlhf_ray.pipelines.resume import differences

STATE_FILE = "state.json"
BEFORE = ("evaluate",)
"""Stages of round 0: the policy as it came."""
ROUND = ("sample", "select", "queue", "wait", "labels", "reward_model", "train", "evaluate")
"""Stages of every later round, in order."""
SECONDS = "seconds"

_MAY_CHANGE = {"rounds", "wait", "stop", "deadlines", "output_dir", "feedback", "device", "placement"}
"""Keys that a resumed run may have other values for."""

Figures = Mapping[str, Any]
"""The figures of a stage; JSON."""
Done = Mapping[str, Figures]
"""Stage → its figures and, under SECONDS, how long it took."""


@dataclass(frozen=True)
class IterateState:
    """The stages that are done. A stage is in it only once everything that it writes is on the disk."""

    settings: Mapping[str, Any] | str
    """The part of the configuration that must not change on the way; in states of earlier versions its hash."""
    rounds: tuple[Done, ...] = ()
    """By number; round 0 is the evaluation before the loop."""

    def next_stage(self) -> tuple[int, str]:
        """(round, stage) that comes next, were there no last round."""
        if not self.rounds:
            return 0, BEFORE[0]
        number = len(self.rounds) - 1
        missing = [stage for stage in stages_of(number) if stage not in self.rounds[-1]]
        return (number, missing[0]) if missing else (number + 1, ROUND[0])

    def after(self, number: int, stage: str, figures: Figures) -> "IterateState":
        """With one more stage done."""
        rounds = [dict(done) for done in self.rounds] + [{}] * (number + 1 - len(self.rounds))
        rounds[number] = {**rounds[number], stage: figures}
        return replace(self, rounds=tuple(rounds))

    @property
    def whole(self) -> tuple[Done, ...]:
        """The rounds that are done, round 0 included."""
        return tuple(done for n, done in enumerate(self.rounds) if all(stage in done for stage in stages_of(n)))


def stages_of(number: int) -> tuple[str, ...]:
    """Stages of a round, in order."""
    return ROUND if number else BEFORE


def settings_of(cfg: IterateConfig) -> dict[str, Any]:
    """Everything that decides what a run means; JSON."""
    return cfg.model_dump(mode="json", exclude=_MAY_CHANGE | {"work_dir"})  # which only other jobs have


def begin(run_dir: Path, cfg: IterateConfig, resume: bool) -> IterateState:
    """The state to go on from. Raises RunError where a run is there and `resume` is not asked for, or it was started
    with another configuration: people's votes are never thrown away or mixed up."""
    fresh, file = IterateState(settings_of(cfg)), run_dir / STATE_FILE
    if not file.exists():
        return fresh
    if not resume:
        raise RunError(f"{run_dir}: holds a loop already, votes and all; go on with --resume, or choose another name")
    state = load(file)
    if isinstance(state.settings, str):
        same, named = state.settings == _fingerprint(fresh.settings), ["see its config.yaml"]
    else:
        named = [f"{key} {change}" for key, change in differences(state.settings, fresh.settings)]
        same = not named
    if not same:
        raise RunError(
            f"{run_dir}: was started with another configuration:\n  " + "\n  ".join(named) + f"\nOnly "
            f"{', '.join(sorted(_MAY_CHANGE))} may change on the way. Give it what it was started with, or choose "
            "another name"
        )
    return state


def _fingerprint(settings: Mapping[str, Any] | str) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def load(file: Path) -> IterateState:
    """The state that save() wrote. Raises RunError for anything else."""
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
        rounds = tuple({str(stage): dict(figures) for stage, figures in done.items()} for done in said["rounds"])
        settings = said["settings"]
        return IterateState(settings if isinstance(settings, dict) else str(settings), rounds)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{file}: cannot be read as the state of a loop: {type(error).__name__}: {error}") from error


def save(state: IterateState, file: Path) -> None:
    """Replace the file as a whole; on the disk when this returns."""
    partial = file.with_name(f".{file.name}.partial")
    with partial.open("w", encoding="utf-8") as out:
        json.dump({"settings": state.settings, "rounds": state.rounds}, out, indent=1)
        out.flush()
        os.fsync(out.fileno())
    os.replace(partial, file)


@dataclass(frozen=True)
class Verdict:
    """Whether the loop goes on, and why not."""

    stopped: bool
    reason: str = ""


def improved(done: Done, cfg: IterateConfig) -> bool:
    """Whether a complete round's gain can be told from chance."""
    low: float = done["evaluate"]["gain"]["low"]
    return low > cfg.stop.min_gain


def verdict(state: IterateState, cfg: IterateConfig) -> Verdict:
    """Asked after every stage; only complete rounds count."""
    rounds = state.whole[1:]
    without = len(list(takewhile(lambda done: not improved(done, cfg), reversed(rounds))))
    if without >= cfg.stop.patience:
        gain = rounds[-1]["evaluate"]["gain"]
        return Verdict(
            True,
            f"round {len(rounds)} brought no improvement that can be told from chance: the 95 % interval of its gain, "
            f"{gain['estimate']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}], is not above {cfg.stop.min_gain:g}"
            + (f", for the {without}th round in a row" if without > 1 else ""),
        )
    if len(rounds) >= cfg.rounds:
        return Verdict(True, f"all {cfg.rounds} rounds are done")
    return Verdict(False)


def advance(
    state: IterateState,
    cfg: IterateConfig,
    run_stage: Callable[[int, str], Figures],
    done: Callable[[IterateState], None],
) -> IterateState:
    """Run stage after stage until the verdict says stop. `done` is given the state after each, to keep it."""
    while not verdict(state, cfg).stopped:
        number, stage = state.next_stage()
        started = time.monotonic()
        figures = run_stage(number, stage)
        state = state.after(number, stage, {**figures, SECONDS: time.monotonic() - started})
        done(state)
    return state
