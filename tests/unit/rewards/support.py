"""Batches made by hand."""

from collections.abc import Sequence
from typing import Any

from mmrlhf_ray.rewards.batch import RewardBatch


def make_batch(completions: Sequence[str], **columns: list[Any]) -> RewardBatch:
    """Rows s0, s1, … of one task, with the given extras."""
    count = len(completions)
    own: dict[str, list[Any]] = {
        "prompt_id": [f"p{i}" for i in range(count)],
        "task": ["sums"] * count,
        "modality": ["image"] * count,
        "finish_reason": ["stop"] * count,
        "response_tokens": [len(text.split()) + 1 for text in completions],
        "turns": [1] * count,
    }
    content = [{"type": "image"}, {"type": "text", "text": "how many ?"}]
    return RewardBatch(
        sample_ids=tuple(f"s{i}" for i in range(count)),
        prompts=tuple([{"role": "user", "content": content}] for _ in range(count)),
        completions=tuple(completions),
        tasks=("sums",) * count,
        modalities=("image",) * count,
        columns=own | columns,
    )
