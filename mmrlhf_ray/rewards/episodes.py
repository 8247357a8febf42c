"""What environments say of episodes, as numbers of a component."""

import math

import pyarrow as pa

from mmrlhf_ray.rewards.scores import ComponentScores


def environment_scores(rollouts: pa.Table, *, per_turn: bool = False) -> ComponentScores:
    """The sum of the rewards of each episode's turns; with `per_turn` those of each turn, too. `rollouts`: ROLLOUT."""
    turns = [
        tuple(
            None if math.isnan(segment["reward"]) else segment["reward"]
            for segment in segments
            if segment["kind"] == "response"
        )
        for segments in rollouts.column("segments").to_pylist()
    ]
    given = [[reward for reward in own if reward is not None] for own in turns]
    values = tuple(sum(own) if own else None for own in given)
    problems = tuple(None if own else "its environment gave no reward" for own in given)
    kept = tuple(own if value is not None else () for own, value in zip(turns, values, strict=True))
    return ComponentScores(values, problems, turns=kept if per_turn else ())
