"""Facts, a judge and a measure for behaviour-overtaking.yaml: overtake on the left, never on the right."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

RIGHT_COSTS, CRASH_COSTS = 2.0, 5.0
"""In overtakings on the left."""


def facts(env: Any) -> dict[str, Any]:
    """Where the others are, seen from the car: metres ahead and lanes to the right, by vehicle."""
    own = env.vehicle
    others = {
        id(other): (float(other.position[0] - own.position[0]), int(other.lane_index[2]) - int(own.lane_index[2]))
        for other in env.road.vehicles
        if other is not own
    }
    return {"others": others, "crashed": bool(own.crashed)}


def judge(left: Sequence[Mapping[str, Any]], right: Sequence[Mapping[str, Any]]) -> str:
    """More overtakings on the left, fewer on the right, no crash."""
    a, b = _liked(left), _liked(right)
    return "tie" if a == b else "left" if a > b else "right"


def measure(states: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Overtakings of an episode by side, and whether it ended in a crash."""
    passed = list(_passed(states))
    return {
        "overtakings on the left": float(sum(lanes > 0 for lanes in passed)),
        "overtakings on the right": float(sum(lanes < 0 for lanes in passed)),
        "crashes": float(any(state["facts"]["crashed"] for state in states)),
    }


def _liked(states: Sequence[Mapping[str, Any]]) -> float:
    found = measure(states)
    return (
        found["overtakings on the left"]
        - RIGHT_COSTS * found["overtakings on the right"]
        - CRASH_COSTS * found["crashes"]
    )


def _passed(states: Sequence[Mapping[str, Any]]) -> Iterator[int]:
    """Lanes to the right of the car at which each vehicle was that fell behind from one step to the next."""
    for before, after in pairwise(states):
        others = after["facts"]["others"]
        for name, (ahead, _) in before["facts"]["others"].items():
            if name in others and ahead > 0 >= others[name][0]:
                yield others[name][1]
