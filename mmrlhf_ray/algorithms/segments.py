"""Corrections: where two responses differ, and log-probabilities that weigh the differing tokens more."""

from collections.abc import Sequence
from difflib import SequenceMatcher

import torch
from torch import Tensor


def changed_tokens(chosen_ids: Sequence[int], rejected_ids: Sequence[int]) -> tuple[list[bool], list[bool]]:
    """Which tokens of `chosen_ids` and of `rejected_ids` have no counterpart in the other response.

    Counterparts are, in order on both sides, the common beginning, the common end, and between them the longest
    matching runs of ids (as Python's difflib finds them). One bool per token; all false when the responses are equal.
    """
    start = _common(chosen_ids, rejected_ids)
    end = _common(chosen_ids[start:][::-1], rejected_ids[start:][::-1])
    # Between beginning and end only: over repetitive text the longest run may be one shifted against the other.
    inner = [list(ids[start : len(ids) - end]) for ids in (chosen_ids, rejected_ids)]
    flags = [[True] * len(ids) for ids in inner]
    # autojunk would call frequent tokens of a long response noise and report them as changed.
    for block in SequenceMatcher(None, inner[0], inner[1], autojunk=False).get_matching_blocks():
        for side, first in zip(flags, (block.a, block.b), strict=True):
            side[first : first + block.size] = [False] * block.size
    chosen, rejected = ([False] * start + side + [False] * end for side in flags)
    return chosen, rejected


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many ids both begin with."""
    pairs = enumerate(zip(a, b, strict=False))
    return next((i for i, (x, y) in pairs if x != y), min(len(a), len(b)))


def segment_logprobs(logprobs: Tensor, changed: Sequence[bool] | Tensor, weight: float) -> Tensor:
    """Log-probability of one response in which changed tokens count `weight` > 0 and the others 1, a scalar:

    (Σ_unchanged logprobs + weight·Σ_changed logprobs) / (n_unchanged + weight·n_changed); logprobs, changed [T].
    Goes into `dpo_loss` in place of the sums, of policy and reference alike.
    Raises ValueError for a response without tokens. Source: Yu et al. 2023, "RLHF-V", dense DPO.
    """
    flags = torch.as_tensor(changed, dtype=torch.bool, device=logprobs.device)
    if logprobs.dim() != 1 or flags.shape != logprobs.shape or not logprobs.numel():
        raise ValueError(
            f"logprobs and changed expect one shape [T], T > 0, got {list(logprobs.shape)}, {list(flags.shape)}"
        )
    if not weight > 0:
        raise ValueError(f"weight expects a positive number, got {weight}")
    weights = torch.ones_like(logprobs).masked_fill(flags, weight)
    return (weights * logprobs).sum() / weights.sum()
