"""Wrong shapes, empty masks and zero denominators are refused by name instead of being broadcast."""

import pytest
import torch

from mmrlhf_ray.algorithms.advantages import (
    OUTCOME_ESTIMATORS,
    gae,
    overlong_penalty,
    reinforce,
    token_rewards,
    whiten_,
)
from mmrlhf_ray.algorithms.aggregation import loss_denominator, token_weights
from mmrlhf_ray.algorithms.kl import kl_estimate, kl_loss
from mmrlhf_ray.algorithms.logprobs import token_logprobs
from mmrlhf_ray.algorithms.losses import bradley_terry_loss, pair_accuracy, ppo_value_loss, sft_loss
from mmrlhf_ray.algorithms.mismatch import flat_mismatch_weights, mismatch_stats, mismatch_weights
from mmrlhf_ray.algorithms.policy_loss import POLICY_LOSSES, Clip, cispo_policy_loss, entropy_bonus

X = torch.zeros(2, 3)
ON = torch.ones(2, 3, dtype=torch.bool)
GROUPS = torch.zeros(2, dtype=torch.long)
FLAT, LENGTHS = torch.zeros(5), torch.tensor([2, 3])
CLIP = Clip(0.2, 0.2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ppo_value_loss(X, X, X[:1], ON, 0.2, 6), "returns expects the mask's shape"),
        (lambda: ppo_value_loss(X, X, X, ON, 0.2, float("nan")), "denominator expects a positive number"),
        (lambda: sft_loss(X[0], ON[0], 3), r"mask expects shape \[B, T\]"),
        (lambda: gae(FLAT, FLAT[:4], LENGTHS, 1, 1), r"values expects shape \[5\], the sum of lengths; got \[4\]"),
        (lambda: gae(FLAT, FLAT, LENGTHS.float(), 1, 1), r"lengths expects int64 \[B\], got torch.float32"),
        (lambda: reinforce(X, LENGTHS, 1), r"rewards expects shape \[5\]"),
        (
            lambda: flat_mismatch_weights(FLAT, FLAT[:1], LENGTHS, "tis", 0.5, 2),
            r"rollout_logprobs expects shape \[5\]",
        ),
        (lambda: whiten_(FLAT[:0]), "x expects at least one token, got none"),
        (lambda: whiten_(FLAT, "half"), r"mode expects one of \['center', 'full', 'none'\], got 'half'"),
        (lambda: token_weights(ON, "mean"), "aggregation expects one of"),
        (lambda: loss_denominator([3], "mean", 8), "aggregation expects one of"),
        (lambda: loss_denominator([0, 0], "token_mean", 8), r"row with at least one token, got \[0, 0\]"),
        (lambda: cispo_policy_loss(X, X, X, ON, X, Clip(0.2, 0.2, 3.0), 6), "clip.dual expects None"),
        (lambda: entropy_bonus(X, ON, X[:1], 6), "weights expects the mask's shape"),
        (lambda: kl_loss(X, X, ON, X[:1], "k1", 6), "weights expects the mask's shape"),
        (lambda: kl_loss(X, X, ON, X, "k4", 6), "kind expects one of"),
        (lambda: kl_loss(X, X, ON, X, "k1", 0), "denominator expects a positive number"),
        (lambda: mismatch_weights(X, X[:1], ON, "tis", 0.5, 2), "rollout_logprobs expects the mask's shape"),
        (lambda: mismatch_weights(X, X, ON, "is", 0.5, 2), "correction expects one of"),
        (lambda: mismatch_stats(FLAT[:0], FLAT[:0], FLAT[:0]), "at least one token"),
        (lambda: mismatch_stats(FLAT, FLAT, FLAT[:4]), r"one shape \[N\], got \[\[5\], \[5\], \[4\]\]"),
        (lambda: overlong_penalty(GROUPS, 8, 9, 1.0), "buffer_tokens expects a number from 1 to max_response_tokens=8"),
        (lambda: overlong_penalty(GROUPS, 8, 0, 1.0), "got 0"),
        (lambda: kl_estimate(X, X[:1], "k1"), "ref_logprobs expects shape"),
        (lambda: kl_estimate(X, X, "k4"), "kind expects one of"),
        (lambda: token_rewards(torch.zeros(3), FLAT, LENGTHS, 0.1), r"scores expects shape \[2\], got \[3\]"),
        (lambda: token_rewards(torch.zeros(2), FLAT, torch.tensor([5, 0]), 0.1), r"rows \[1\] have none"),
        (lambda: bradley_terry_loss(X[0], X[0, :1], 3), r"one shape \[P\]"),
        (lambda: bradley_terry_loss(X[0], X[0], 3, X[0, :1]), "margin expects shape"),
        (lambda: pair_accuracy(X[0, :0], X[0, :0]), "P > 0"),
        (lambda: token_logprobs(X, torch.zeros(3, dtype=torch.long)), r"shapes \[N, V\] and \[N\]"),
        (lambda: token_logprobs(X, torch.zeros(2, dtype=torch.long), 0.0), "temperature expects a positive number"),
    ],
)
def test_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("loss", POLICY_LOSSES.values(), ids=POLICY_LOSSES)
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: f(X, X, X, ON.float(), X, CLIP, 6), "mask expects dtype bool"),
        (lambda f: f(X, X[:, :1], X, ON, X, CLIP, 6), r"old_logprobs expects the mask's shape \[2, 3\]"),
        (lambda f: f(X, X, X, ON, X[:1], CLIP, 6), r"weights expects the mask's shape \[2, 3\]"),
        (lambda f: f(X, X, X, ON, X, CLIP, 0), "denominator expects a positive number, got 0"),
    ],
)
def test_policy_losses_refuse(loss, call, message):
    with pytest.raises(ValueError, match=message):
        call(loss)


@pytest.mark.parametrize("estimator", OUTCOME_ESTIMATORS.values(), ids=OUTCOME_ESTIMATORS)
def test_estimators_refuse(estimator):
    with pytest.raises(ValueError, match=r"groups expects one shape \[B\] with outcomes, \[2\]; got \[1\]"):
        estimator(X[:, 0], GROUPS[:1])
    with pytest.raises(ValueError, match="groups expects one shape"):
        estimator(X, GROUPS)


@pytest.mark.parametrize("loss", POLICY_LOSSES.values(), ids=POLICY_LOSSES)
def test_an_empty_micro_batch_gives_zero_and_a_gradient(loss):
    x = torch.zeros(2, 3, requires_grad=True)
    value, stats = loss(x, X, X, ~ON, X, CLIP, 6.0)
    value.backward()
    assert value.item() == 0
    assert x.grad is not None
    assert not x.grad.any()
    assert stats["tokens"].item() == 0


def test_no_rows_at_all():
    assert token_logprobs(torch.zeros(0, 5), torch.zeros(0, dtype=torch.long)).shape == (0,)
