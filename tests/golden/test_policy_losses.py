"""PPO, GSPO and CISPO, the entropy bonus and the aggregation against the float64 reference and by hand."""

import math

import pytest
import torch

from mmrlhf_ray.algorithms import policy_loss
from mmrlhf_ray.algorithms.aggregation import AGGREGATIONS, loss_denominator, token_weights
from mmrlhf_ray.algorithms.policy_loss import (
    POLICY_LOSSES,
    Clip,
    cispo_policy_loss,
    entropy_bonus,
    gspo_policy_loss,
    ppo_policy_loss,
)
from tests.golden import reference
from tests.golden.support import assert_caught, batch, close, mutant

CLIPS = [Clip(0.2, 0.2), Clip(0.05, 0.1), Clip(None, None), Clip(0.1, None), Clip(None, 0.1), Clip(0.2, 0.28)]
DUAL = [Clip(0.1, 0.1, 1.02), Clip(None, None, 1.1)]


def want_gradient(kind, rows, clip, denominator):
    """Of the reference at each logprob: by central differences; for CISPO by its definition, as its ratio is held."""
    logprobs, old, advantages, mask, weights = rows
    step = 1e-6
    out = [[0.0] * len(row) for row in logprobs]
    for i, row in enumerate(mask):
        for t, on in enumerate(row):
            if kind == "cispo" and on:
                near = reference.nearest(math.exp(logprobs[i][t] - old[i][t]), clip[0], clip[1])
                out[i][t] = -weights[i][t] * near * advantages[i][t] / denominator
            elif on:
                ends = []
                for shift in (step, -step):
                    moved = [list(r) for r in logprobs]
                    moved[i][t] += shift
                    ends.append(reference.policy_loss(kind, moved, old, advantages, mask, weights, clip, denominator))
                out[i][t] = (ends[0] - ends[1]) / (2 * step)
    return out


def check(kind, function):
    for seed, clip in enumerate(CLIPS if kind == "cispo" else CLIPS + DUAL):
        b = batch(seed)
        weights = b.values.abs()
        denominator = b.tokens if seed % 2 else 100.0
        logprobs = b.logprobs.clone().requires_grad_()
        loss, stats = function(logprobs, b.old_logprobs, b.advantages, b.mask, weights, clip, denominator)
        assert loss.requires_grad
        loss.backward()
        rows = [x.tolist() for x in (b.logprobs, b.old_logprobs, b.advantages, b.mask, weights)]
        bounds = (clip.low, clip.high, clip.dual)
        want = reference.policy_loss(kind, *rows, bounds, denominator)
        close(loss.detach(), want)
        close(stats["policy_loss"], want * denominator)
        gradient = torch.tensor(want_gradient(kind, rows, bounds, denominator), dtype=torch.float64)
        torch.testing.assert_close(logprobs.grad, gradient, rtol=1e-6, atol=1e-8)
        ratios = torch.tensor(reference.ratios(*rows[:2], rows[3], kind == "gspo"), dtype=torch.float64)[b.mask]
        assert stats["tokens"].item() == b.tokens
        close(stats["ratio"], ratios.sum())
        close(stats["ratio_max"], ratios.max())


@pytest.mark.parametrize("kind", POLICY_LOSSES)
def test_losses_and_gradients_match_the_reference(kind):
    check(kind, POLICY_LOSSES[kind])


@pytest.mark.parametrize(
    ("kind", "old", "new"),
    [
        *((k, "_masked(advantages, mask)", "_masked(-advantages, mask)") for k in POLICY_LOSSES),
        *((k, "_masked(advantages, mask)", "_masked(advantages.flip(0), mask)") for k in POLICY_LOSSES),
        *((k, "_masked(advantages, mask)", "_masked(advantages.roll(1, 1), mask)") for k in POLICY_LOSSES),
        ("cispo", "_masked(advantages, mask)", "1"),
        *((k, "log_ratio = _log_ratio(", "log_ratio = -_log_ratio(") for k in POLICY_LOSSES),
        *((k, "_reduced(per_token, mask, weights", "_reduced(per_token, mask, 1 + 0 * weights") for k in POLICY_LOSSES),
        *(
            (k, "_reduced(per_token, mask, weights", "_reduced(per_token, mask, weights.roll(1, 1)")
            for k in POLICY_LOSSES
        ),
        *((k, "weights, denominator, _R", "weights, float(mask.sum()) + 1, _R") for k in POLICY_LOSSES),
        ("ppo", "ratio = bounded_exp(log_ratio)", "ratio = bounded_exp(log_ratio).detach()"),
        ("gspo", "log_ratio.sum(dim=1, keepdim=True) / tokens", "log_ratio"),
        ("gspo", "log_ratio.sum(dim=1, keepdim=True) / tokens", "log_ratio.sum(dim=1, keepdim=True)"),
        ("gspo", "log_ratio.sum(dim=1, keepdim=True) / tokens", "log_ratio.mean(dim=1, keepdim=True)"),
        ("gspo", "/ tokens)", "/ tokens).flip(0)"),
        ("gspo", "/ tokens)", "/ tokens).detach()"),
        ("cispo", "log_ratio.detach()", "log_ratio"),
        ("cispo", "-clipped *", "-ratio *"),
        ("cispo", "-clipped *", "-1 *"),
        ("cispo", "* torch.where(mask, logprobs, torch.zeros_like(logprobs))", "* log_ratio"),
    ],
)
def test_broken_losses_are_caught(kind, old, new):
    assert_caught(lambda f: check(kind, f), mutant(POLICY_LOSSES[kind], old, new))


@pytest.mark.parametrize(
    ("part", "old", "new"),
    [
        ("_surrogate", "torch.maximum(", "torch.minimum("),
        ("_surrogate", "torch.maximum(unclipped, -advantages * clip(ratio))", "unclipped"),
        ("_surrogate", "torch.maximum(unclipped, -advantages * clip(ratio))", "-advantages * clip(ratio)"),
        ("_surrogate", "-advantages * clip(ratio)", "advantages * clip(ratio)"),
        ("_surrogate", "unclipped = -advantages", "unclipped = advantages"),
        ("_surrogate", "clip.dual is not None", "False"),
        ("_surrogate", "advantages < 0", "advantages > 0"),
        ("_surrogate", "torch.minimum(", "torch.maximum("),
        ("_surrogate", "-advantages * clip.dual", "-advantages"),
        ("_reduced", "_masked(weights, mask)", "_masked(weights, mask.roll(1, 1))"),
        ("_reduced", "* per_token).sum()", "* per_token).mean()"),
        ("_reduced", "total / denominator", "total / mask.sum()"),
        ("_reduced", "total / denominator", "-total / denominator"),
        ("_reduced", '"tokens": mask.sum()', '"tokens": weights.sum()'),
        ("_log_ratio", "logprobs - old_logprobs.detach()", "logprobs - old_logprobs.flip(0)"),
        ("_log_ratio", "torch.where(mask", "torch.where(mask.roll(1, 1)"),
        ("_masked", "torch.where(mask", "torch.where(mask.roll(1, 1)"),
    ],
)
def test_broken_parts_are_caught(monkeypatch, part, old, new):
    monkeypatch.setattr(policy_loss, part, mutant(getattr(policy_loss, part), old, new))
    assert_caught(lambda f: check("ppo", f), ppo_policy_loss)


@pytest.mark.parametrize("kind", POLICY_LOSSES)
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("1.0 - self.low", "1.0 - 2 * self.low"),
        ("1.0 + self.high", "1.0 + 2 * self.high"),
        ("1.0 + self.high", "1.0 + (self.low or self.high)"),
        ("self.low is not None", "False"),
        ("self.high is not None", "False"),
    ],
)
def test_a_broken_clip_is_caught(monkeypatch, kind, old, new):
    monkeypatch.setattr(Clip, "__call__", mutant(Clip.__call__, old, new))
    assert_caught(lambda f: check(kind, f), POLICY_LOSSES[kind])


def hand(function, clip, ratios=((1.5, 1.5), (0.5, 0.5))):
    """Two responses of two tokens with advantages 1 and −1."""
    x = torch.tensor(ratios, dtype=torch.float64)
    advantages = torch.tensor([[1.0, -1.0], [1.0, -1.0]], dtype=torch.float64)
    mask = torch.ones(2, 2, dtype=torch.bool)
    logprobs = x.log().requires_grad_()
    loss, stats = function(logprobs, torch.zeros_like(x), advantages, mask, torch.ones_like(x), clip, 4.0)
    loss.backward()
    return loss.item(), logprobs.grad, stats


def test_ppo_by_hand():
    # Ratios 1.5, 1.5, 0.5, 0.5 with advantages 1, -1, 1, -1, clip 0.2; objectives 1.2, -1.5, 0.5, -0.8.
    loss, gradient, stats = hand(ppo_policy_loss, Clip(0.2, 0.2))
    assert loss == pytest.approx(-(1.2 - 1.5 + 0.5 - 0.8) / 4)
    # Clipped tokens have no gradient; the others -A * ratio / 4.
    close(gradient, [[0.0, 1.5 / 4], [-0.5 / 4, 0.0]])
    assert stats["clip_fraction"].item() == 2
    assert stats["tokens"].item() == 4
    assert stats["ratio_max"].item() == pytest.approx(1.5)
    assert stats["ratio"].item() == pytest.approx(4.0)
    assert stats["approx_kl"].item() == pytest.approx(2 * (0.5 - math.log(1.5)) + 2 * (-0.5 - math.log(0.5)))


def test_clip_higher_and_dual_clip_by_hand():
    # The upper bound alone is wider: objectives 1.4, -1.5, 0.5, -0.8.
    loss, _, stats = hand(ppo_policy_loss, Clip(0.2, 0.4))
    assert loss == pytest.approx(-(1.4 - 1.5 + 0.5 - 0.8) / 4)
    assert stats["clip_fraction"].item() == 2
    # No objective below -1.25: 1.2, -1.25, 0.5, -0.8; the bounded token stops learning too.
    loss, gradient, stats = hand(ppo_policy_loss, Clip(0.2, 0.2, 1.25))
    assert loss == pytest.approx(-(1.2 - 1.25 + 0.5 - 0.8) / 4)
    close(gradient, [[0.0, 0.0], [-0.5 / 4, 0.0]])
    assert stats["clip_fraction"].item() == 3


def test_gspo_by_hand():
    # Ratios 2 and 1/2 make a response whose ratio is 1; ratios 4 and 1 one whose ratio is 2, clipped for A > 0.
    loss, gradient, stats = hand(gspo_policy_loss, Clip(0.2, 0.2), ((2.0, 0.5), (4.0, 1.0)))
    assert loss == pytest.approx(-(1 - 1 + 1.2 - 2) / 4)
    # First row: +1 and -1 cancel. Second: d(2)/dlogp = 2 * 1/2 at both tokens, from the second token's term alone.
    close(gradient, [[0.0, 0.0], [1 / 4, 1 / 4]])
    assert stats["ratio"].item() == pytest.approx(6)
    assert stats["clip_fraction"].item() == 1


def test_cispo_by_hand():
    # Weights 1.2, 1.2, 0.5, 0.5 with no lower bound; every token has a gradient -A * weight / 4.
    loss, gradient, stats = hand(cispo_policy_loss, Clip(None, 0.2))
    assert loss == pytest.approx(0.0)
    close(gradient, [[-1.2 / 4, 1.2 / 4], [-0.5 / 4, 0.5 / 4]])
    assert stats["clip_fraction"].item() == 2


@pytest.mark.parametrize("kind", POLICY_LOSSES)
def test_at_the_old_policy_the_gradient_is_the_policy_gradient(kind):
    # One advantage per response, as GSPO's ratio spreads a token's gradient over its row.
    b = batch()
    advantages = b.advantages[:, :1].expand_as(b.mask)
    weights = token_weights(b.mask, "sequence_mean", torch.float64)
    logprobs = b.old_logprobs.clone().requires_grad_()
    loss, stats = POLICY_LOSSES[kind](logprobs, b.old_logprobs, advantages, b.mask, weights, Clip(0.2, 0.2), 6.0)
    loss.backward()
    close(logprobs.grad, torch.where(b.mask, -weights * advantages / 6.0, 0.0))
    assert stats["approx_kl"].item() == 0
    assert stats["clip_fraction"].item() == 0


def check_entropy(function):
    b = batch()
    weights = b.values.abs()
    bonus, stats = function(b.returns, b.mask, weights, 50.0)
    rows = [x.tolist() for x in (b.returns, b.mask)]
    close(bonus, reference.weighted_mean(*rows, weights.tolist(), 50.0))
    close(stats["entropy"], reference.weighted_mean(*rows, torch.ones_like(weights).tolist(), 1.0))


def test_entropy_bonus_matches_the_reference():
    check_entropy(entropy_bonus)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("torch.where(mask, entropy", "torch.where(mask, -entropy"),
        ("torch.where(mask, entropy", "torch.where(mask.roll(1, 1), entropy"),
        ("_masked(weights, mask)", "_masked(weights.flip(0), mask)"),
        ("_masked(weights, mask)", "mask"),
        (".sum() / denominator", ".mean() / denominator"),
        ("kept.detach().sum()", "kept.detach().mean()"),
    ],
)
def test_a_broken_entropy_bonus_is_caught(old, new):
    assert_caught(check_entropy, mutant(entropy_bonus, old, new))


def test_entropy_by_hand():
    entropy = torch.tensor([[1.0, 2.0, 100.0], [4.0, 100.0, 100.0]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    bonus, stats = entropy_bonus(entropy, mask, token_weights(mask, "sequence_mean"), 2.0)
    assert bonus.item() == pytest.approx((1.5 + 4) / 2)
    assert stats["entropy"].item() == 7


def check_weights(function):
    mask = batch().mask
    for name in AGGREGATIONS:
        close(function(mask, name, torch.float64), reference.token_weights(mask.tolist(), name))


def test_token_weights_match_the_reference():
    check_weights(token_weights)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("mask.sum(dim=1)", "mask.sum(dim=1).flip(0)"),
        ("mask.sum(dim=1)", "mask.sum(dim=0)[:6]"),
        ("[:, None]", "[:, None] * 2"),
        ("return mask *", "return mask.roll(1, 1) *"),
        (".row_weight(tokens)", ".row_weight(tokens).mean().expand(len(mask))"),
    ],
)
def test_broken_token_weights_are_caught(old, new):
    assert_caught(check_weights, mutant(token_weights, old, new))


def test_aggregation_by_hand():
    # Losses 1, 2, 3 and 4 of responses with three tokens and one; a third response was left out.
    mask = torch.tensor([[True, True, True], [False, True, False], [False, False, False]])
    losses = torch.tensor([[1.0, 2.0, 3.0], [9.0, 4.0, 9.0], [9.0, 9.0, 9.0]])
    want = {"token_mean": 10 / 4, "sequence_mean": (2 + 4) / 2, "constant_length": 10 / (2 * 8)}
    for name, value in want.items():
        total = (token_weights(mask, name) * losses).sum().item()
        assert total / loss_denominator([3, 1, 0], name, 8) == pytest.approx(value)
    assert set(want) == set(AGGREGATIONS)
