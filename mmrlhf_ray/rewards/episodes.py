"""What environments say of episodes, as numbers of a component."""

import math

import pyarrow as pa

from mmrlhf_ray.rewards.scores import ComponentScores


def environment_scores(rollouts: pa.Table) -> ComponentScores:
    """The sum of the rewards of each episode's turns. `rollouts`: ROLLOUT."""
    values: list[float | None] = []
    for segments in rollouts.column("segments").to_pylist():
        given = [segment["reward"] for segment in segments if not math.isnan(segment["reward"])]
        values.append(sum(given) if given else None)
    problems = (None if value is not None else "its environment gave no reward" for value in values)
    return ComponentScores(tuple(values), tuple(problems))
