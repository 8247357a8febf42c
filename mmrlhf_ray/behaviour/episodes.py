"""Complete episodes: played by a policy without chance in its actions, written down, played again."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ray.rllib.core.rl_module.rl_module import RLModule

from mmrlhf_ray.behaviour.env import COST, TRUE_RETURN, RecordedEnv
from mmrlhf_ray.behaviour.module import best_action
from mmrlhf_ray.behaviour.segments import Recorded, Replay, Segment
from mmrlhf_ray.config.behaviour import BehaviourConfig
from mmrlhf_ray.errors import ConfigError

FIRST_SEED = 2**31
"""Training's seeds are below."""
_WHOLE = 10**9
"""Steps of a segment that no episode has."""


@dataclass(frozen=True)
class Episode:
    """One that was played to its end."""

    replay: Replay
    true_return: float
    cost: float
    """Mean of its steps."""
    recorded: Recorded
    """All of its steps."""


def whole_env(cfg: BehaviourConfig) -> RecordedEnv:
    """An environment for these functions."""
    return RecordedEnv(cfg, record=_WHOLE)


def play(env: RecordedEnv, module: RLModule, seeds: Iterable[int]) -> list[Episode]:
    """An episode for each seed. env: of whole_env()."""
    return [_played(env, module, seed) for seed in seeds]


def again(env: RecordedEnv, replay: Replay) -> Recorded:
    """What was recorded of a segment, from its replay."""
    env.begin(replay.seed)
    for action in replay.actions:
        env.step(action)
    found = env.rest()
    assert found is not None
    return tail(found, replay.shown)


def tail(recorded: Recorded, steps: int) -> Recorded:
    """The last steps of a record."""
    start = max(0, len(recorded.segment) - steps)
    return Recorded(
        Segment({n: v[start:] for n, v in recorded.segment.observations.items()}, recorded.segment.actions[start:]),
        Replay(recorded.replay.seed, recorded.replay.actions, len(recorded.segment) - start),
        recorded.true_rewards[start:],
        recorded.costs[start:],
        recorded.facts[start:],
    )


def head(replay: Replay, steps: int) -> Replay:
    """The first steps of an episode."""
    actions = replay.actions[:steps]
    return Replay(replay.seed, actions, len(actions))


def write_replays(file: Path, replays: Sequence[Replay]) -> None:
    """As JSON: they are small, and every clip can be made of them again."""
    rows = [{"seed": r.seed, "actions": r.actions.tolist(), "shown": r.shown} for r in replays]
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text(json.dumps(rows), encoding="utf-8")
    partial.rename(file)


def read_replays(file: Path) -> list[Replay]:
    """The inverse of write_replays()."""
    rows: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    return [Replay(row["seed"], _actions(row["actions"]), row["shown"]) for row in rows]


def check_demonstrations(path: str, steps: int) -> None:
    """Raise ConfigError unless the file holds an episode of a segment's `steps` at least."""
    try:
        replays = read_replays(Path(path))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"demonstrations.path={path}: expected a list of episodes, each with seed, actions and shown; got "
            f"{type(error).__name__}: {error}"
        ) from error
    if not any(len(replay.actions) >= steps for replay in replays):
        raise ConfigError(f"demonstrations.path={path}: no episode is as long as segments.steps={steps}")


def _actions(values: list[Any]) -> np.ndarray:
    found = np.array(values)
    return found.astype(np.int64 if found.ndim == 1 else np.float32)


def _played(env: RecordedEnv, module: RLModule, seed: int) -> Episode:
    observation, ended = env.begin(seed), False
    said: dict[str, float] = {}
    while not ended:
        observation, _, terminated, truncated, said = env.step(best_action(module, observation))
        ended = terminated or truncated
    recorded = env.rest()
    assert recorded is not None
    assert math.isfinite(said[TRUE_RETURN])
    return Episode(recorded.replay, said[TRUE_RETURN], said[COST], recorded)
