"""Fusion: formulas by hand, missing modalities, and decisions that are fused."""

import itertools

import numpy as np
import pytest
import torch

from mmrlhf_ray.config.discrete_parts import FusionSection
from mmrlhf_ray.discrete.fusion import (
    DECISION_FUSION,
    FEATURE_FUSION,
    Attention,
    Views,
    Weighted,
    WeightedDecisions,
    masked_softmax,
)

SECTION = FusionSection(width=4, heads=2)
PATTERNS = torch.tensor(list(itertools.product((0.0, 1.0), repeat=3)))


def test_masked_softmax_by_hand():
    scores = torch.tensor([[0.0, float(np.log(3.0)), 9.0], [1.0, 2.0, 3.0], [0.0, 0.0, 1e30]])
    present = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    expected = torch.tensor([[0.25, 0.75, 0.0], [0.0, 0.0, 0.0], [0.5, 0.5, 0.0]])
    torch.testing.assert_close(masked_softmax(scores, present), expected)


def test_masked_softmax_has_finite_gradients_where_nothing_is_there():
    scores = torch.randn(8, 3, requires_grad=True)
    (masked_softmax(scores, PATTERNS) * torch.randn(8, 3)).sum().backward()
    assert torch.isfinite(scores.grad).all()
    assert not scores.grad[PATTERNS == 0].any()


@pytest.mark.parametrize("kind", FEATURE_FUSION)
def test_features_that_are_missing_change_nothing(kind):
    torch.manual_seed(0)
    fuse = FEATURE_FUSION[kind](3, SECTION)
    features = torch.randn(8, 3, 4)
    other = torch.where(PATTERNS[..., None] > 0, features, torch.randn(8, 3, 4))
    fused = fuse(features, PATTERNS)
    assert fused.shape == (8, fuse.size)
    assert torch.isfinite(fused).all()
    assert torch.equal(fused, fuse(other, PATTERNS))
    assert not torch.allclose(fused[-1], fuse(features + 1.0, PATTERNS)[-1])


def test_concat_puts_features_side_by_side():
    features = torch.arange(6.0).reshape(1, 2, 3)
    fuse = FEATURE_FUSION["concat"](2, SECTION)
    assert fuse(features, torch.tensor([[1.0, 0.0]])).tolist() == [[0, 1, 2, 0, 0, 0]]
    assert fuse.shares(features, torch.ones(1, 2)) is None


def test_the_weighted_sum_by_hand():
    fuse = Weighted(3, SECTION)
    with torch.no_grad():
        fuse.scores[:] = torch.tensor([0.0, np.log(2.0), np.log(5.0)])
    features = torch.tensor([[[8.0], [16.0], [24.0]]]).expand(3, 3, 4)
    present = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    assert fuse(features, present)[:, 0].tolist() == pytest.approx([1 + 4 + 15, 8 / 3 + 32 / 3, 24])


def test_attention_is_the_textbook_computation():
    torch.manual_seed(0)
    fuse, features = Attention(2, SECTION), torch.randn(1, 2, 4)
    tokens = torch.cat([torch.zeros(1, 1, 4), features], 1)[0] + fuse.names
    weight, bias = fuse.attention.in_proj_weight, fuse.attention.in_proj_bias
    query, key, value = (tokens @ w.T + b for w, b in zip(weight.chunk(3), bias.chunk(3), strict=True))
    seen = []
    for head in range(2):
        part = slice(2 * head, 2 * head + 2)
        attended = torch.softmax(query[:, part] @ key[:, part].T / np.sqrt(2), -1)
        seen.append(attended @ value[:, part])
    out = tokens + fuse.attention.out_proj(torch.cat(seen, 1))
    out = (out - out.mean(-1, keepdim=True)) / torch.sqrt(out.var(-1, unbiased=False, keepdim=True) + 1e-5)
    torch.testing.assert_close(fuse(features, torch.ones(1, 2))[0], out.mean(0), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", ["weighted", "attention"])
def test_shares_sum_to_one_over_what_is_there(kind):
    torch.manual_seed(0)
    fuse = FEATURE_FUSION[kind](3, SECTION)
    shares = fuse.shares(torch.randn(8, 3, 4), PATTERNS)
    torch.testing.assert_close(shares.sum(1), (PATTERNS.sum(1) > 0).float())
    assert not shares[PATTERNS == 0].any()


@pytest.mark.parametrize("kind", DECISION_FUSION)
def test_decisions_of_missing_views_change_nothing(kind):
    torch.manual_seed(0)
    fuse = DECISION_FUSION[kind](3, 4, 5)
    decisions, seen = torch.randn(8, 3, 5), torch.randn(8, 3, 4)
    there = PATTERNS[..., None] > 0
    fused = fuse(decisions, Views(seen, PATTERNS, None))
    other = Views(torch.where(there, seen, torch.randn(8, 3, 4)), PATTERNS, None)
    assert torch.equal(fused, fuse(torch.where(there, decisions, torch.randn(8, 3, 5)), other))
    # RLlib explores no action whose value is exactly 0.
    assert fused.abs().min() > 0


def test_fused_decisions_by_hand():
    decisions = torch.tensor([[[3.0, 0.0], [0.0, 6.0], [9.0, 9.0]]])
    views = Views(torch.zeros(1, 3, 4), torch.tensor([[1.0, 1.0, 0.0]]), None)
    weighted = WeightedDecisions(3, 4, 2)
    with torch.no_grad():
        weighted.bias.zero_()
        weighted.scores[:] = torch.tensor([0.0, np.log(2.0), 7.0])
    assert weighted(decisions, views)[0].tolist() == pytest.approx([1.0, 4.0])
    concat = DECISION_FUSION["concat"](3, 4, 2)
    with torch.no_grad():
        concat.mix.bias.zero_()
    assert concat(decisions, views)[0].tolist() == pytest.approx([1.0, 2.0])  # the mean of three, one of them missing
