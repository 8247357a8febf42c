"""A judge and a measure for behaviour-windmill.yaml: no reward function says what they look for.

Observations of Reacher-v5: cosines of both joints, their sines, the target's place, both joints' speeds, and the
fingertip's way to the target.
"""

from collections.abc import Mapping, Sequence
from typing import Any

SECONDS = 0.02
"""Of a step."""
FULL_TURN = 6.283185
COS_ELBOW, SPEED = 1, 6
FASTEST = 8.0
"""Radians a second; turning faster is no better."""


def judge(left: Sequence[Mapping[str, Any]], right: Sequence[Mapping[str, Any]]) -> str:
    """The arm should turn anticlockwise about its shoulder, stretched out."""
    a, b = _liked(left), _liked(right)
    return "tie" if a == b else "left" if a > b else "right"


def measure(states: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Anticlockwise turns of an episode, and how far the arm is stretched: 1 = straight, −1 = folded."""
    seen = [state["observation"]["state"] for state in states]
    return {
        "anticlockwise turns": sum(float(o[SPEED]) for o in seen) * SECONDS / FULL_TURN,
        "stretched": sum(float(o[COS_ELBOW]) for o in seen) / len(seen),
    }


def _liked(states: Sequence[Mapping[str, Any]]) -> float:
    seen = [state["observation"]["state"] for state in states]
    return sum(min(float(o[SPEED]), FASTEST) / FASTEST + float(o[COS_ELBOW]) for o in seen)
