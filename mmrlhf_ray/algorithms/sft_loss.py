"""Negative log-likelihood of demonstrations."""

import torch
from torch import Tensor

from mmrlhf_ray.algorithms.checks import check_denominator, check_tokens
from mmrlhf_ray.algorithms.stats import Stats


def sft_loss(logprobs: Tensor, mask: Tensor, denominator: float) -> tuple[Tensor, Stats]:
    """−Σ over masked tokens of `logprobs` [B, T] / denominator, in nats.

    mask bool [B, T] is true at the demonstration's tokens. `denominator` is the number of such tokens in the whole
    batch over all ranks and micro-batches. Statistics, sums over the tokens: `tokens`, `nll`.
    """
    check_tokens(mask, logprobs=logprobs)
    check_denominator(denominator)
    total = -torch.where(mask, logprobs, torch.zeros_like(logprobs)).sum()
    return total / denominator, {"tokens": mask.sum().to(total.dtype), "nll": total.detach()}
