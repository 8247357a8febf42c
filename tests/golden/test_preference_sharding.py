"""Preference, feedback and reward-model losses: how a batch is cut or ordered changes neither loss nor gradient."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mmrlhf_ray.algorithms.losses import (
    bradley_terry_loss,
    ensemble_weights,
    feedback_loss,
    plackett_luce_loss,
    rating_loss,
)
from mmrlhf_ray.algorithms.preference_loss import (
    bco_loss,
    dpo_loss,
    ipo_loss,
    kto_loss,
    margin_beta,
    mpo_loss,
    orpo_loss,
    segment_logprobs,
    simpo_loss,
)
from mmrlhf_ray.algorithms.statistics import Stats, merge_stats

N = 8
CUTS = {
    "2 shards": [[0, 1, 2, 3], [4, 5, 6, 7]],
    "4 shards": [[0, 1], [2, 3], [4, 5], [6, 7]],
    "uneven, out of order": [[6], [7, 0, 3], [1, 2], [5, 4]],
    "one by one": [[i] for i in range(N)],
    "permuted": [[3, 0, 7, 6, 1, 5, 2, 4]],
}

Loss = Callable[[Tensor, Tensor, list[int]], tuple[Tensor, Stats]]
FEEDBACK = torch.tensor([1.0, -1.0, 0.0, 0.5, -0.5, 1.0, -1.0, 1.0], dtype=torch.float64)
MARGIN = torch.linspace(0, 2, N, dtype=torch.float64)
RATINGS = torch.arange(N * 4, dtype=torch.float64).reshape(N, 4).sin()
RATINGS[1, 2] = RATINGS[4] = torch.nan
RANKS = torch.tensor([[1, 2, 2, 3], [2, 1, 3, 4], [1, 1, 1, 1], [4, 3, 2, 1]]).repeat(2, 1)
COUNTS = ensemble_weights(torch.arange(N), 1, seed=3)[0].double()
MASK = torch.arange(4)[None, :] < torch.tensor([4, 1, 2, 3, 4, 2, 1, 3])[:, None]


# x: policy, four numbers per row below zero; q: the reference's; i: the rows of this part.
def _dpo(x, q, i):
    return dpo_loss(x[i, 0], x[i, 1], q[i, 0], q[i, 1], margin_beta(0.3, MARGIN[i], 0.5, 1.0), N, 0.1)


def _dense_dpo(x, q, i):
    policy, reference = (
        [torch.stack([segment_logprobs(t[k, side], [False, True], 5.0) for k in i]) for side in ([0, 1], [2, 3])]
        for t in (x, q)
    )
    return dpo_loss(*policy, *reference, 0.3, N)


def _ipo(x, q, i):
    return ipo_loss(x[i, 0], x[i, 1], q[i, 0], q[i, 1], 0.3, N)


def _kto(x, q, i):
    return kto_loss(x[i, 0], q[i, 0], FEEDBACK[i], 0.4, 0.3, 1.2, 0.8, 7)


def _orpo(x, q, i):
    return orpo_loss(x[i, 0], x[i, 1], 0.3, N)


def _simpo(x, q, i):
    return simpo_loss(x[i, 0], x[i, 1], 2.0, 0.5, N)


def _bco(x, q, i):
    return bco_loss(x[i, 0], q[i, 0], FEEDBACK[i], 0.2, 0.3, 7)


def _mpo(x, q, i):
    return mpo_loss(x[i, 0], x[i, 1], q[i, 0], q[i, 1], x[i, 2], 0.2, 0.3, (0.8, 0.2, 1.0), N)


def _feedback(x, q, i):
    return feedback_loss(x[i], MASK[i], FEEDBACK[i], 7)


def _bradley_terry(x, q, i):
    return bradley_terry_loss(x[i, 0], x[i, 1], N, MARGIN[i], 0.1, 0.01, COUNTS[i])


def _plackett_luce(x, q, i):
    rows = torch.tensor(i).repeat_interleave(4)
    return plackett_luce_loss(x[i].flatten(), RANKS[i].flatten(), rows, N, COUNTS[rows])


def _rating(x, q, i):
    return rating_loss(x[i], RATINGS[i], 27, COUNTS[i])


LOSSES = [
    _dpo,
    _dense_dpo,
    _ipo,
    _kto,
    _orpo,
    _simpo,
    _bco,
    _mpo,
    _feedback,
    _bradley_terry,
    _plackett_luce,
    _rating,
]


def _run(loss: Loss, cut: list[list[int]]) -> tuple[Tensor, Tensor, Stats]:
    generator = torch.Generator().manual_seed(5)
    x, q = (-torch.rand(N, 4, generator=generator, dtype=torch.float64) * 3 - 0.05 for _ in range(2))
    x.requires_grad_()
    parts = [loss(x, q, rows) for rows in cut]
    total = torch.stack([part[0] for part in parts]).sum()
    total.backward()
    return total.detach(), x.grad, merge_stats(part[1] for part in parts)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda f: f.__name__.strip("_"))
@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
def test_invariant_under_cutting_and_order(loss, cut):
    want = _run(loss, [list(range(N))])
    torch.testing.assert_close(_run(loss, cut), want, rtol=1e-6, atol=1e-12)
    assert want[1].abs().max() > 0


def test_a_local_denominator_is_caught():
    # The usual mistake: each part averages over its own judged responses.
    def local(x, q, i):
        judged = max(float((FEEDBACK[i] != 0).sum()), 1.0)
        return bco_loss(x[i, 0], q[i, 0], FEEDBACK[i], 0.2, 0.3, judged)

    cut = CUTS["uneven, out of order"]
    whole, parts = _run(local, [list(range(N))])[0], _run(local, cut)[0] / len(cut)
    assert not torch.allclose(whole, parts, rtol=1e-3)
