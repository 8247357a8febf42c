"""The group that each metric is shown in, by trackers and on pages."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

GROUPS: Mapping[str, Sequence[str]] = {
    "eval": ("eval_*", "heldout_*"),
    "stream": (
        "dropped_*", "staleness_*", "seconds_draw_*", "responses", "tokens_sampled", "requests", "decisions",
    ),
    "timing": ("seconds_*", "idle_*", "tokens_per_second_*", "train_seconds"),
    "reward": (
        "score", "score_std", "reward", "reward_*", "cost_*", "lagrange_*", "missing_*", "without_score",
        "episode reward", "total reward", "train_score",
    ),
    "response": ("response_tokens", "unfinished", "entropy", "turns", "turns_with_problem"),
    "critic": ("value_loss", "value_clip_fraction", "explained_variance", "critic_*"),
    "policy": (
        "kl", "kl_*", "policy_loss", "approx_kl", "clip_fraction", "ratio", "ratio_max", "grad_norm", "lr", "lr_*",
    ),
    "mismatch": ("mismatch_*", "corrected", "corrected_*"),
    "system": ("generators", "weight_bytes", "media_bytes", "processor_calls", "padding_share"),
    "train": (
        "loss", "*_loss", "pair_accuracy", "preference_accuracy", "epoch", "error_*", "uncertainty", "rows", "tokens",
    ),
}  # fmt: skip
"""Group → patterns of names. The first group that fits is taken."""
OTHER = "other"
"""The group of a metric that no pattern fits."""


def group_of(name: str) -> str:
    """The group of a metric."""
    return next((group for group, patterns in GROUPS.items() if _fits(name, patterns)), OTHER)


def grouped(name: str) -> str:
    """A metric's name as trackers show it, such as `reward/score`."""
    return f"{group_of(name)}/{name}"


def _fits(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
