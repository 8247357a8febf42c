"""How far a policy is from a teacher at each token, over the vocabulary or over the teacher's likeliest tokens."""

from typing import Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mmrlhf_ray.algorithms.aggregation import check_denominator, check_tokens
from mmrlhf_ray.algorithms.logprobs import scaled_logits
from mmrlhf_ray.algorithms.statistics import Stats

Divergence = Literal["forward", "reverse"]

_ROWS = 1024
_LEAST = -1.0e4
"""Log-probabilities below this count as this: 0 · ∞ would be NaN, and nothing in between occurs."""


def teacher_numbers(
    logits: Tensor, top_k: int | None, temperature: float = 1.0, banned: Tensor | None = None, rows: int = _ROWS
) -> Tensor:
    """What is to be known of a teacher's distribution at each token, from its logits [N, V], without gradient.

    With `top_k` [N, 2·top_k + 1]: the ids of its likeliest tokens, as floats (float32 holds whole numbers up to 2²⁴),
    their log-probabilities, and the log-probability of all others together. Without it [N, V]: all log-probabilities.
    Temperature and banned ids as of token_logprobs(). Raises ValueError where `top_k` leaves no other token.
    """
    allowed = logits.shape[1] - (0 if banned is None else len(banned))
    if top_k is not None and top_k >= allowed:
        raise ValueError(f"top_k expects fewer than the {allowed} tokens that can be sampled, got {top_k}")
    return torch.cat([_numbers(part, top_k, temperature, banned) for part in logits.split(rows)])


def _numbers(logits: Tensor, top_k: int | None, temperature: float, banned: Tensor | None) -> Tensor:
    scaled = scaled_logits(logits, temperature, banned)
    logprobs = scaled - scaled.logsumexp(dim=1, keepdim=True)
    if top_k is None:
        return logprobs
    top = logprobs.topk(top_k, dim=1)
    others = logprobs.scatter(1, top.indices, -torch.inf).logsumexp(dim=1, keepdim=True)
    return torch.cat([top.indices.to(logprobs.dtype), top.values, others], dim=1)


def teacher_kl(
    logits: Tensor,
    teacher: Tensor,
    divergence: Divergence,
    top_k: int | None,
    temperature: float = 1.0,
    banned: Tensor | None = None,
    rows: int = _ROWS,
) -> Tensor:
    """KL of policy and teacher at each token, nats [N]; gradient flows to the policy's logits alone.

    logits [N, V] of the policy, teacher as teacher_numbers() with the same `top_k`. With p the policy's distribution
    and q the teacher's: forward KL(q ‖ p) = Σ q·(log q − log p), reverse KL(p ‖ q) = Σ p·(log p − log q). With `top_k`
    the sum is over the teacher's likeliest tokens and over all others as one, which is never more than that over the
    vocabulary (log-sum inequality).
    Source: Agarwal et al., "On-Policy Distillation of Language Models", 2024, section 2.
    Computed `rows` rows at a time and recomputed in the backward pass: at most `rows` × V float32 numbers are alive
    besides the logits.
    """
    if logits.dim() != 2 or len(teacher) != len(logits):
        raise ValueError(f"teacher expects {len(logits)} rows as logits, got {list(teacher.shape)}")
    wanted = logits.shape[1] if top_k is None else 2 * top_k + 1
    if teacher.shape[1] != wanted:
        raise ValueError(f"teacher expects {wanted} numbers a token, got {teacher.shape[1]}")
    parts = zip(logits.split(rows), teacher.split(rows), strict=True)
    return torch.cat([_recomputed(*part, divergence, top_k, temperature, banned) for part in parts])


def _recomputed(
    logits: Tensor,
    teacher: Tensor,
    divergence: Divergence,
    top_k: int | None,
    temperature: float,
    banned: Tensor | None,
) -> Tensor:
    if not (torch.is_grad_enabled() and logits.requires_grad):
        return _kl_of_rows(logits, teacher, divergence, top_k, temperature, banned)
    settings = (divergence, top_k, temperature, banned)
    result: Tensor = checkpoint(_kl_of_rows, logits, teacher, *settings, use_reentrant=False, preserve_rng_state=False)
    return result


def _kl_of_rows(
    logits: Tensor,
    teacher: Tensor,
    divergence: Divergence,
    top_k: int | None,
    temperature: float,
    banned: Tensor | None,
) -> Tensor:
    scaled = scaled_logits(logits, temperature, banned)
    normaliser = scaled.logsumexp(dim=1, keepdim=True)
    if top_k is None:
        policy, wanted = scaled - normaliser, teacher
    else:
        ids, wanted = teacher[:, :top_k].long(), teacher[:, top_k:]
        others = scaled.scatter(1, ids, -torch.inf).logsumexp(dim=1, keepdim=True)
        policy = torch.cat([scaled.gather(1, ids), others], dim=1) - normaliser
    log_p, log_q = policy.clamp(min=_LEAST), wanted.to(policy.dtype).clamp(min=_LEAST)
    if divergence == "forward":
        return (log_q.exp() * (log_q - log_p)).sum(dim=1)
    return (log_p.exp() * (log_p - log_q)).sum(dim=1)


def distillation_loss(kl: Tensor, mask: Tensor, weights: Tensor, denominator: float) -> tuple[Tensor, Stats]:
    """Σ over masked tokens of w·kl / denominator. All tensors [B, T], mask bool; `weights` and `denominator` as in
    `PolicyLoss`. Statistics: `distillation_loss`, the weighted sum, nats.

    The tokens are the policy's own, and the gradient is that of the divergence at each of them, not of how likely the
    policy is to get there, as in GKD (Agarwal et al. 2024).
    """
    check_tokens(mask, kl=kl, weights=weights)
    check_denominator(denominator)
    zeros = torch.zeros_like(kl)
    total = (torch.where(mask, weights.detach().to(kl.dtype), zeros) * torch.where(mask, kl, zeros)).sum()
    return total / denominator, {"distillation_loss": total.detach()}
