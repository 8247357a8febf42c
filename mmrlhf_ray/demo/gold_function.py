"""The gold reward as a reward function of a user's: for `evaluate.rewards` of a loop, never for training."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmrlhf_ray.demo.gold import gold_reward


def gold(
    prompts: Sequence[str],
    completions: Sequence[str],
    finish_reason: Sequence[str],
    response_tokens: Sequence[int],
    answer: Sequence[str],
    evidence: Sequence[Mapping[str, str]],
    **columns: Any,
) -> list[float]:
    """The gold reward of each response."""
    rows = zip(completions, finish_reason, response_tokens, answer, evidence, strict=True)
    return [
        gold_reward(text, reason, tokens, {"answer": right, "evidence": shown}).total
        for text, reason, tokens, right, shown in rows
    ]
