"""The preference and reward-model losses refuse what torch would broadcast, and take empty micro-batches."""

import pytest
import torch

from mmrlhf_ray.algorithms.losses import bradley_terry_loss, feedback_loss, plackett_luce_loss, rating_loss
from mmrlhf_ray.algorithms.preference_loss import (
    bco_loss,
    dpo_loss,
    ipo_loss,
    kto_loss,
    kto_reference_kl,
    margin_beta,
    mpo_loss,
    orpo_loss,
    segment_logprobs,
    simpo_loss,
)

X = torch.zeros(3)
GRID = torch.zeros(3, 2)
ON = torch.ones(3, 2, dtype=torch.bool)
IDS = torch.zeros(3, dtype=torch.long)
ONES = (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dpo_loss(X, X[:1], X, X, 0.1, 3), r"rejected \[1\]"),
        (lambda: dpo_loss(X, X, X, X[:1], 0.1, 3), r"ref_rejected \[1\]"),
        (lambda: dpo_loss(GRID, GRID, GRID, GRID, 0.1, 3), r"expect one shape \[P\]"),
        (lambda: dpo_loss(X, X, X, X, X[:1], 3), r"beta \[1\]"),
        (lambda: dpo_loss(X, X, X, X, 0.1, 0), "denominator expects a positive number, got 0"),
        (lambda: ipo_loss(X, X, X[:1], X, 0.1, 3), r"ref_chosen \[1\]"),
        (lambda: kto_loss(X, X, X[:1], 0.0, 0.1, 1, 1, 3), r"feedback \[1\]"),
        (lambda: kto_loss(X, X, X, -0.1, 0.1, 1, 1, 3), "kl expects the reference point z0 >= 0"),
        (lambda: kto_loss(X, X, X, float("nan"), 0.1, 1, 1, 3), "kl expects"),
        (lambda: orpo_loss(X, X[:1], 0.1, 3), r"rejected \[1\]"),
        (lambda: simpo_loss(X, X[:1], 0.1, 0.5, 3), r"rejected \[1\]"),
        (lambda: bco_loss(X, X[:1], X, 0.0, 0.1, 3), r"ref_logprobs \[1\]"),
        (lambda: mpo_loss(X, X, X, X, X[:1], 0.0, 0.1, ONES, 3), r"chosen_mean \[1\]"),
        (lambda: margin_beta(0.1, torch.tensor([1.0, -2.0]), 1.0, 1.0), "0 or more, got -2.0; exchange chosen"),
        (lambda: kto_reference_kl(1.0, 0), "count expects a positive number of responses, got 0"),
        (lambda: segment_logprobs(X, [True], 2.0), r"T > 0, got \[3\], \[1\]"),
        (lambda: segment_logprobs(X[:0], [], 2.0), r"T > 0, got \[0\], \[0\]"),
        (lambda: segment_logprobs(X, [True] * 3, 0.0), "weight expects a positive number, got 0.0"),
        (lambda: feedback_loss(GRID, ON, X[:1], 3), r"feedback expects shape \[3\], got \[1\]"),
        (lambda: feedback_loss(GRID, ON.float(), X, 3), "mask expects dtype bool"),
        (lambda: plackett_luce_loss(X, IDS[:1], IDS, 3), r"scores, ranks and rows expect one shape \[N\]"),
        (lambda: plackett_luce_loss(X, IDS, IDS, 3, X[:1]), r"weights expects shape \[3\], one per row, got \[1\]"),
        (lambda: rating_loss(GRID, GRID[:1], 3), r"scores and ratings expect one shape \[N, A\]"),
        (lambda: rating_loss(X, X, 3), r"got \[3\], \[3\]"),
        (lambda: rating_loss(GRID, GRID, 3, GRID), r"weights expects shape \[3\]"),
        (lambda: bradley_terry_loss(X, X, 3, weights=X[:1]), "weights expects shape"),
    ],
)
def test_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda x: dpo_loss(x, x, x, x, 0.1, 4),
        lambda x: ipo_loss(x, x, x, x, 0.1, 4),
        lambda x: kto_loss(x, x, x.detach(), 0.1, 0.1, 1, 1, 4),
        lambda x: orpo_loss(x, x, 0.1, 4),
        lambda x: simpo_loss(x, x, 2.0, 0.5, 4),
        lambda x: bco_loss(x, x, x.detach(), 0.1, 0.1, 4),
        lambda x: mpo_loss(x, x, x, x, x, 0.1, 0.1, ONES, 4),
        lambda x: feedback_loss(x[:, None], ON[:0, :1], x.detach(), 4),
        lambda x: plackett_luce_loss(x, IDS[:0], IDS[:0], 4),
        lambda x: rating_loss(x[:, None], x.detach()[:, None], 4),
    ],
)
def test_an_empty_micro_batch_gives_zero_and_a_gradient(call):
    x = torch.zeros(0, requires_grad=True)
    loss, stats = call(x)
    loss.backward()
    assert loss.item() == 0
    assert all(value.item() == 0 and not value.requires_grad for value in stats.values())


def test_statistics_carry_no_gradient_and_float32_stays_float32():
    x = torch.full((3,), -1.0, requires_grad=True)
    for loss, stats in (
        dpo_loss(x, x, X, X, 0.1, 3),
        kto_loss(x, X, X + 1, 0.1, 0.1, 1, 1, 3),
        orpo_loss(x, x, 0.1, 3),
        mpo_loss(x, x, X, X, x, 0.1, 0.1, ONES, 3),
        plackett_luce_loss(x, IDS, IDS, 3),
    ):
        assert loss.dtype == torch.float32
        assert not any(value.requires_grad for value in stats.values())
