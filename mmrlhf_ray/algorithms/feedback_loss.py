"""The human-feedback loss H, which supervised training adds to its own: L′ = L + λH."""

import torch
from torch import Tensor

from mmrlhf_ray.algorithms.checks import check_denominator, check_tokens
from mmrlhf_ray.algorithms.stats import Stats


def feedback_loss(logprobs: Tensor, mask: Tensor, feedback: Tensor, denominator: float) -> tuple[Tensor, Stats]:
    """H = −Σ over responses of h·log π(response) / denominator, log π summed over the response's tokens, in nats.

    logprobs [B, T], mask bool [B, T] true at the response's tokens, feedback h [B]: 1 liked, −1 disliked, fractions
    weigh, 0 adds nothing. `denominator` is the number of responses with feedback in the whole batch over all ranks
    and micro-batches. Source: H = −E[h·log π(response)], the policy gradient of the feedback as reward (Williams
    1992, REINFORCE); the formula that users bring along adds a constant, which has no gradient and is left out.

    For h < 0 H has no lower bound: log π of a disliked response can fall for ever. Keep λ small.

    Statistics, sums over the responses: `feedback_rows`, `feedback_loss`, `liked`, `disliked` (counts),
    `liked_logprobs`, `disliked_logprobs` (of whole responses).
    """
    check_tokens(mask, logprobs=logprobs)
    if feedback.shape != mask.shape[:1]:
        raise ValueError(f"feedback expects shape {list(mask.shape[:1])}, got {list(feedback.shape)}")
    check_denominator(denominator)
    judged = mask & (feedback != 0)[:, None]
    responses = torch.where(judged, logprobs, torch.zeros_like(logprobs)).sum(dim=1)
    total = -(feedback.detach().to(responses.dtype) * responses).sum()
    with torch.no_grad():
        liked, disliked = (feedback > 0).to(total.dtype), (feedback < 0).to(total.dtype)
        stats = {
            "feedback_rows": (liked + disliked).sum(),
            "feedback_loss": total.detach(),
            "liked": liked.sum(),
            "disliked": disliked.sum(),
            "liked_logprobs": (liked * responses).sum(),
            "disliked_logprobs": (disliked * responses).sum(),
        }
    return total / denominator, stats
