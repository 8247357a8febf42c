"""Bradley–Terry loss of the reward model."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from mmrlhf_ray.algorithms.checks import check_denominator
from mmrlhf_ray.algorithms.stats import Stats


def bradley_terry_loss(
    chosen: Tensor,
    rejected: Tensor,
    denominator: float,
    margin: Tensor | None = None,
    label_smoothing: float = 0.0,
    center_coef: float = 0.0,
) -> tuple[Tensor, Stats]:
    """Loss of P pairs: Σ [−(1−s)·log σ(d) − s·log σ(−d) + center_coef·(chosen + rejected)²] / denominator.

    d = chosen − rejected − margin; chosen, rejected, margin [P] scores; s = label_smoothing, the share of labels
    believed wrong. `denominator` is the number of pairs in the whole batch over all ranks and micro-batches.
    Sources: Bradley & Terry 1952; margin: Touvron et al. 2023 (Llama 2, equation 2); centring: Eisenstein et al.
    2023; smoothing: Mitchell 2023, "A note on DPO with noisy preferences".

    Statistics, sums over the pairs: `pairs`, `reward_loss`, `pair_accuracy` (a tie counts one half),
    `score_chosen`, `score_rejected`.
    """
    if chosen.dim() != 1 or chosen.shape != rejected.shape:
        raise ValueError(f"chosen and rejected expect one shape [P], got {list(chosen.shape)}, {list(rejected.shape)}")
    if margin is not None and margin.shape != chosen.shape:
        raise ValueError(f"margin expects shape {list(chosen.shape)}, got {list(margin.shape)}")
    check_denominator(denominator)
    difference = chosen - rejected
    if margin is not None:
        difference = difference - margin
    per_pair = -(1.0 - label_smoothing) * logsigmoid(difference) - label_smoothing * logsigmoid(-difference)
    per_pair = per_pair + center_coef * (chosen + rejected).square()
    total = per_pair.sum()
    with torch.no_grad():
        stats = {
            "pairs": total.new_tensor(float(chosen.numel())),
            "reward_loss": total.detach(),
            "pair_accuracy": _right(chosen, rejected).sum(),
            "score_chosen": chosen.sum(),
            "score_rejected": rejected.sum(),
        }
    return total / denominator, stats


def pair_accuracy(chosen: Tensor, rejected: Tensor) -> float:
    """Share of pairs [P] in which the chosen response has the higher score; a tie counts one half.

    Raises ValueError without any pair.
    """
    if chosen.numel() == 0 or chosen.shape != rejected.shape:
        raise ValueError(
            f"chosen and rejected expect one shape [P], P > 0, got {list(chosen.shape)}, {list(rejected.shape)}"
        )
    return float(_right(chosen, rejected).mean())


def _right(chosen: Tensor, rejected: Tensor) -> Tensor:
    return 0.5 * (torch.sign(chosen.detach() - rejected.detach()) + 1.0)
