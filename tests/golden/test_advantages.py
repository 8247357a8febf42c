"""Rewards, GAE and whitening against the float64 reference and by hand."""

import pytest
import torch

from mmrlhf_ray.algorithms import gae, token_rewards, whiten
from tests.golden import reference
from tests.golden.support import assert_caught, batch, close, mutant


def check_token_rewards(function):
    b = batch()
    scores = torch.tensor([1.0, -2.0, 0.5, 3.0, -1.0, 2.0], dtype=torch.float64)
    close(
        function(scores, b.logprobs, b.mask, 0.05),
        reference.token_rewards(scores.tolist(), b.logprobs.tolist(), b.mask.tolist(), 0.05),
    )


def test_token_rewards_match_the_reference():
    check_token_rewards(token_rewards)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("-kl_coef * kl", "kl_coef * kl"),
        ("last] += scores", "last] -= scores"),
        ("last] += scores", "last - 1] += scores"),
        ("last] += scores", "last] = scores"),
        ("last] += scores.to(rewards.dtype)", "last] += scores.flip(0)"),
        ("masked_fill(~mask, -1).max", "masked_fill(~mask, 99).min"),
        ("torch.where(mask, -kl_coef", "torch.where(mask.roll(1, 1), -kl_coef"),
    ],
)
def test_broken_token_rewards_are_caught(old, new):
    assert_caught(check_token_rewards, mutant(token_rewards, old, new))


def test_token_rewards_by_hand():
    kl = torch.tensor([[0.5, 1.0, 9.0], [2.0, 9.0, 9.0]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    got = token_rewards(torch.tensor([3.0, -1.0]), kl, mask, 0.1)
    torch.testing.assert_close(got, torch.tensor([[-0.05, 2.9, 0.0], [-1.2, 0.0, 0.0]]))


def check_gae(function):
    b = batch()
    for gamma, lam in ((1.0, 0.95), (0.9, 0.8), (1.0, 1.0), (0.97, 0.0)):
        advantages, returns = function(b.rewards, b.values, b.mask, gamma, lam)
        want = reference.gae(b.rewards.tolist(), b.values.tolist(), b.mask.tolist(), gamma, lam)
        close(advantages, want[0])
        close(returns, want[1])


def test_gae_matches_the_reference():
    check_gae(gae)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("- values[:, t]", "+ values[:, t]"),
        ("+ gamma * next_value", "- gamma * next_value"),
        ("delta + gamma * gae_lambda", "delta - gamma * gae_lambda"),
        ("gamma * gae_lambda * next_advantage", "gae_lambda * next_advantage"),
        ("gamma * gae_lambda * next_advantage", "gamma * next_advantage"),
        ("on = mask[:, t]", "on = mask[:, t - 1]"),
        ("on = mask[:, t]", "on = mask[:1, t].expand(len(mask))"),
        ("next_value = torch.where(on, values[:, t], next_value)", "next_value = values[:, t]"),
        ("gae_lambda * next_advantage, next_advantage)", "gae_lambda * next_advantage, 0 * next_advantage)"),
        ("advantages + values,", "advantages,"),
        ("rewards[:, t]", "rewards.roll(1, 0)[:, t]"),
    ],
)
def test_broken_gae_is_caught(old, new):
    assert_caught(check_gae, mutant(gae, old, new))


def test_gae_by_hand():
    # One reward of 1 at the end, values 0.5, 0.25, gamma = 1, lambda = 0.5:
    # delta_1 = 1 - 0.25 = 0.75; delta_0 = 0.25 - 0.5 = -0.25; A_0 = -0.25 + 0.5 * 0.75 = 0.125.
    # The second row is one token shorter: its values beyond the mask must not leak in.
    rewards = torch.tensor([[0.0, 1.0, 0.0], [2.0, 7.0, 7.0]])
    values = torch.tensor([[0.5, 0.25, 8.0], [1.5, 8.0, 8.0]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    advantages, returns = gae(rewards, values, mask, gamma=1.0, gae_lambda=0.5)
    torch.testing.assert_close(advantages, torch.tensor([[0.125, 0.75, 0.0], [0.5, 0.0, 0.0]]))
    torch.testing.assert_close(returns, torch.tensor([[0.625, 1.0, 0.0], [2.0, 0.0, 0.0]]))


def test_gae_of_a_row_does_not_depend_on_the_batch_or_the_padding():
    b = batch()
    together, _ = gae(b.rewards, b.values, b.mask, 0.99, 0.9)
    for row in range(len(b.mask)):
        keep = b.mask[row].nonzero().flatten()
        alone, _ = gae(
            b.rewards[row : row + 1, keep], b.values[row : row + 1, keep], torch.ones(1, len(keep)).bool(), 0.99, 0.9
        )
        close(alone[0], together[row, keep])


def check_whiten(function):
    b = batch()
    close(function(b.rewards, b.mask), reference.whiten(b.rewards.tolist(), b.mask.tolist(), 1e-8))


def test_whiten_matches_the_reference():
    check_whiten(whiten)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("(x - mean)", "(mean - x)"),
        ("kept = x[mask]", "kept = x"),
        ("kept = x[mask]", "kept = x[mask.roll(1, 1)]"),
        (".mean() + eps", ".sum() / (len(kept) - 1) + eps"),
        ("torch.where(mask, (x", "torch.where(mask.roll(1, 1), (x"),
    ],
)
def test_broken_whiten_is_caught(old, new):
    assert_caught(check_whiten, mutant(whiten, old, new))
