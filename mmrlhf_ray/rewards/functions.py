"""The built-in reward functions, by name. Like the user's, they are called in a separate process."""

from collections.abc import Callable, Mapping

from mmrlhf_ray.rewards.answers import accuracy, exact_match, f1, recall, text_similarity
from mmrlhf_ray.rewards.boxes import iou
from mmrlhf_ray.rewards.style import format_match, grounding, length_penalty, repetition_penalty, turn_penalty

RewardFunction = Callable[..., list[float | None]]
"""f(prompts, completions, **columns): a score for each response; None where the function does not apply to a row.

Columns have one entry per row. Keyword-only parameters of a built-in function are its options, which `arguments` of the
configuration sets; the option `key` names the column that it reads. Called without any row, it raises ValueError for
options that it cannot work with.
"""

BUILT_IN: Mapping[str, RewardFunction] = {
    "exact_match": exact_match,
    "accuracy": accuracy,
    "f1": f1,
    "recall": recall,
    "iou": iou,
    "format": format_match,
    "length_penalty": length_penalty,
    "repetition_penalty": repetition_penalty,
    "turn_penalty": turn_penalty,
    "text_similarity": text_similarity,
    "grounding": grounding,
}
