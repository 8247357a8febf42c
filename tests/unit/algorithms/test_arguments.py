"""Wrong shapes, empty masks and zero denominators are refused by name instead of being broadcast."""

import pytest
import torch

from mmrlhf_ray.algorithms import (
    bradley_terry_loss,
    gae,
    kl_estimate,
    pair_accuracy,
    ppo_policy_loss,
    ppo_value_loss,
    sft_loss,
    token_logprobs,
    token_rewards,
    whiten,
)

X = torch.zeros(2, 3)
ON = torch.ones(2, 3, dtype=torch.bool)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ppo_policy_loss(X, X, X, ON.float(), 0.2, 6), "mask expects dtype bool"),
        (lambda: ppo_policy_loss(X, X[:, :1], X, ON, 0.2, 6), r"old_logprobs expects the mask's shape \[2, 3\]"),
        (lambda: ppo_policy_loss(X, X, X, ON, 0.2, 0), "denominator expects a positive number, got 0"),
        (lambda: ppo_value_loss(X, X, X[:1], ON, 0.2, 6), "returns expects the mask's shape"),
        (lambda: ppo_value_loss(X, X, X, ON, 0.2, float("nan")), "denominator expects a positive number"),
        (lambda: sft_loss(X[0], ON[0], 3), r"mask expects shape \[B, T\]"),
        (lambda: gae(X, X.T, ON, 1, 1), "values expects the mask's shape"),
        (lambda: whiten(X, ~ON), "at least one true entry"),
        (lambda: kl_estimate(X, X[:1], "k1"), "ref_logprobs expects shape"),
        (lambda: kl_estimate(X, X, "k4"), "kind expects one of"),
        (lambda: token_rewards(torch.zeros(3), X, ON, 0.1), r"scores expects shape \[2\]"),
        (lambda: token_rewards(torch.zeros(2), X, ON & torch.tensor([[True], [False]]), 0.1), r"rows \[1\] have none"),
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


def test_an_empty_micro_batch_gives_zero_and_a_gradient():
    x = torch.zeros(2, 3, requires_grad=True)
    loss, stats = ppo_policy_loss(x, X, X, ~ON, 0.2, 6.0)
    loss.backward()
    assert loss.item() == 0
    assert x.grad is not None
    assert not x.grad.any()
    assert stats["tokens"].item() == 0


def test_no_rows_at_all():
    assert token_logprobs(torch.zeros(0, 5), torch.zeros(0, dtype=torch.long)).shape == (0,)
