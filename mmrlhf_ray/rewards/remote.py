"""A reward service over HTTP."""

import math
from typing import Any

from mmrlhf_ray.config.rewards import RemoteReward
from mmrlhf_ray.rewards.batch import RewardBatch, prompt_text
from mmrlhf_ray.rewards.http import Endpoint, RequestFailed, post_all
from mmrlhf_ray.rewards.scores import ComponentScores


class RemoteScores:
    """Asks a service: POST {"prompts", "completions", "columns"} → {"scores": [number or null, …]}.

    null means that the service does not apply to the row. Nothing is made up for what does not come back.
    """

    def __init__(self, reward: RemoteReward):
        self._reward = reward

    def start(self) -> None:
        """Raises ConfigError when the token is not in the environment."""
        self._endpoint()

    def score(self, batch: RewardBatch) -> ComponentScores:
        """Numbers of all rows, or why there are none, after `deadline_s` at most."""
        size = self._reward.batch_size
        parts = [batch.select(range(i, min(i + size, len(batch)))) for i in range(0, len(batch), size)]
        values: list[float | None] = []
        problems: list[str | None] = []
        for part, answer in zip(parts, post_all(self._endpoint(), [_body(p) for p in parts]), strict=True):
            scores = _scores(answer, len(part))
            values += scores.values
            problems += scores.problems
        return ComponentScores(tuple(values), tuple(problems))

    def close(self) -> None:
        """Nothing stays open between calls."""

    def _endpoint(self) -> Endpoint:
        return Endpoint.of(self._reward, self._reward.url)


def _body(batch: RewardBatch) -> dict[str, Any]:
    return {
        "prompts": [prompt_text(p) for p in batch.prompts],
        "completions": list(batch.completions),
        "columns": dict(batch.columns),
    }


def _scores(answer: Any | RequestFailed, count: int) -> ComponentScores:
    if isinstance(answer, RequestFailed):
        return ComponentScores.missing(count, str(answer))
    scores = answer.get("scores") if isinstance(answer, dict) else None
    if not isinstance(scores, list):
        return ComponentScores.missing(count, 'answered without a list "scores"')
    if len(scores) != count:
        return ComponentScores.missing(count, f"answered {len(scores)} scores for {count} responses")
    problems = tuple(
        None if s is None or _is_finite(s) else f"answered {s!r}, which is not a finite number" for s in scores
    )
    values = (None if s is None or p is not None else float(s) for s, p in zip(scores, problems, strict=True))
    return ComponentScores(tuple(values), problems)


def _is_finite(score: Any) -> bool:
    return isinstance(score, int | float) and not isinstance(score, bool) and math.isfinite(score)
