"""Rewards, estimators and whitening against the float64 reference and by hand."""

import math

import pytest
import torch

from mmrlhf_ray.algorithms import advantages
from mmrlhf_ray.algorithms.advantages import (
    ESTIMATORS,
    WHITEN_DEFAULT,
    gae,
    group_centred,
    grpo,
    reinforce,
    rloo,
    token_rewards,
    whiten,
)
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
        got, returns = function(b.rewards, b.values, b.mask, gamma, lam)
        want = reference.gae(b.rewards.tolist(), b.values.tolist(), b.mask.tolist(), gamma, lam)
        close(got, want[0])
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
    got, returns = gae(rewards, values, mask, gamma=1.0, gae_lambda=0.5)
    torch.testing.assert_close(got, torch.tensor([[0.125, 0.75, 0.0], [0.5, 0.0, 0.0]]))
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


GROUPS = torch.tensor([4, 9, 4, 9, 9, 9])
KINDS = {group_centred: "mean", rloo: "others", grpo: "standard"}


def check_reinforce(function):
    b = batch()
    for gamma in (1.0, 0.9, 0.0):
        want = reference.reinforce(b.rewards.tolist(), b.mask.tolist(), gamma)
        close(function(b.rewards, b.mask, GROUPS, gamma), want)


def test_reinforce_matches_the_reference():
    check_reinforce(reinforce)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("gae(rewards,", "gae(-rewards,"),
        ("mask, gamma, 1.0", "mask, gamma, gamma"),
        ("mask, gamma, 1.0", "mask, 1.0, 1.0"),
        ("torch.zeros_like(rewards), mask,", "torch.zeros_like(rewards), mask.roll(1, 1),"),
        ("gae(rewards,", "gae(rewards.flip(0),"),
        ("torch.zeros_like(rewards), mask", "rewards, mask"),
    ],
)
def test_a_broken_reinforce_is_caught(old, new):
    assert_caught(check_reinforce, mutant(reinforce, old, new))


def test_reinforce_by_hand():
    rewards = torch.tensor([[1.0, 7.0, 2.0], [3.0, 7.0, 7.0]])
    mask = torch.tensor([[True, False, True], [True, False, False]])
    want = torch.tensor([[1 + 0.5 * 2, 0.0, 2.0], [3.0, 0.0, 0.0]])
    torch.testing.assert_close(reinforce(rewards, mask, torch.tensor([0, 0]), 0.5), want)


def check_group(function, kind):
    b = batch()
    for groups in (GROUPS, torch.tensor([0, 1, 1, 0, 2, 2])):
        want = reference.group_advantages(b.rewards.tolist(), b.mask.tolist(), groups.tolist(), kind)
        close(function(b.rewards, b.mask, groups, 1.0), want)


@pytest.mark.parametrize(("function", "kind"), KINDS.items(), ids=KINDS.values())
def test_group_estimators_match_the_reference(function, kind):
    check_group(function, kind)


@pytest.mark.parametrize(
    ("function", "old", "new"),
    [
        *((f, "_Group.of(_outcomes", "_Group.of(-_outcomes") for f in KINDS),
        *((f, "_outcomes(rewards, mask)", "_outcomes(rewards, mask).flip(0)") for f in KINDS),
        # Within the group of four alone: the second and the fifth row change places.
        *((f, "_outcomes(rewards, mask)", "_outcomes(rewards, mask)[[0, 4, 2, 3, 1, 5]]") for f in KINDS),
        *((f, "_outcomes(rewards, mask)", "_outcomes(rewards, mask.roll(1, 1))") for f in KINDS),
        *((f, "_outcomes(rewards, mask)", "rewards.sum(1)") for f in KINDS),
        *((f, "mask), groups)", "mask), groups.roll(1))") for f in KINDS),
        *((f, "mask), groups)", "mask), 0 * groups)") for f in KINDS),
        *((f, "None] * mask", "None] * mask.roll(1, 1)") for f in KINDS),
        (rloo, "* group.size / (group.size - 1)", ""),
        (rloo, "(group.size - 1))", "(group.size + 1))"),
        (grpo, "* group.size / (group.size - 1).clamp(min=1)", ""),
        (grpo, "variance.sqrt()", "variance"),
        (grpo, " / (variance.sqrt() + _STD_EPS)", ""),
        (grpo, "+ _STD_EPS", "+ 0.1"),
    ],
)
def test_broken_group_estimators_are_caught(function, old, new):
    broken = mutant(function, old, new)
    assert_caught(lambda f: check_group(f, KINDS[function]), broken)


@pytest.mark.parametrize("function", KINDS)
def test_leaving_the_mean_in_is_caught(monkeypatch, function):
    broken = mutant(advantages._Group.of, "outcomes - blank.mean_of(outcomes)", "outcomes")
    monkeypatch.setattr(advantages._Group, "of", broken.__get__(None, advantages._Group))
    assert_caught(lambda f: check_group(f, KINDS[function]), function)


@pytest.mark.parametrize("function", KINDS)
def test_permuting_a_group_permutes_its_advantages(function):
    b, order = batch(), [2, 4, 0, 1, 5, 3]
    assert GROUPS[order].tolist() == GROUPS.tolist()
    want = function(b.rewards, b.mask, GROUPS, 1.0)[order]
    close(function(b.rewards[order], b.mask[order], GROUPS, 1.0), want)


def test_group_estimators_by_hand():
    # Outcomes 1, 3 and 5, 5 of two prompts; the first prompt has a third response of 8 whose rewards are spread.
    rewards = torch.tensor([[1.0, 9.0], [5.0, 9.0], [3.0, 9.0], [5.0, 9.0], [2.0, 6.0]], dtype=torch.float64)
    mask = torch.tensor([[True, False], [True, False], [True, False], [True, False], [True, True]])
    groups = torch.tensor([7, 3, 7, 3, 7])
    close(group_centred(rewards, mask, groups, 1.0), [[-3, 0], [0, 0], [-1, 0], [0, 0], [4, 4]])
    close(rloo(rewards, mask, groups, 1.0), [[-4.5, 0], [0, 0], [-1.5, 0], [0, 0], [6, 6]])
    std = math.sqrt((9 + 1 + 16) / 2) + 1e-6
    close(grpo(rewards, mask, groups, 1.0), [[-3 / std, 0], [0, 0], [-1 / std, 0], [0, 0], [4 / std, 4 / std]])


@pytest.mark.parametrize("function", KINDS)
def test_equal_outcomes_give_exactly_nothing(function):
    # The mean of three times 0.1 is not 0.1 in floating point, and 1e-17 over 1e-6 would be a direction to learn.
    rewards = torch.full((3, 1), 0.1, dtype=torch.float64)
    got = function(rewards, torch.ones(3, 1, dtype=torch.bool), torch.zeros(3, dtype=torch.long), 1.0)
    assert got.eq(0).all()


@pytest.mark.parametrize("function", KINDS)
def test_a_missing_outcome_is_not_taken_for_an_equal_one(function):
    rewards = torch.tensor([[1.0], [math.nan]])
    got = function(rewards, torch.ones(2, 1, dtype=torch.bool), torch.zeros(2, dtype=torch.long), 1.0)
    assert got.isnan().all()


def test_a_response_without_others_to_compare():
    rewards, mask, groups = torch.tensor([[2.0], [1.0], [4.0]]), torch.ones(3, 1).bool(), torch.tensor([0, 5, 0])
    assert grpo(rewards, mask, groups, 1.0)[1].item() == 0
    assert group_centred(rewards, mask, groups, 1.0)[1].item() == 0
    with pytest.raises(ValueError, match=r"groups \[5\] have one"):
        rloo(rewards, mask, groups, 1.0)


def test_rloo_and_centring_agree_up_to_a_factor():
    b = batch()
    size = torch.tensor([2.0, 4, 2, 4, 4, 4], dtype=torch.float64)[:, None]
    close(rloo(b.rewards, b.mask, GROUPS, 1.0), group_centred(b.rewards, b.mask, GROUPS, 1.0) * size / (size - 1))


def test_the_tables_agree():
    assert set(WHITEN_DEFAULT) == {*ESTIMATORS, "gae"}
    assert {name for name, mode in WHITEN_DEFAULT.items() if mode == "full"} == {
        "gae",
        "reinforce_pp",
        "reinforce_pp_baseline",
    }


def check_whiten(function):
    b = batch()
    for mode in ("none", "center", "full"):
        close(function(b.rewards, b.mask, mode), reference.whiten(b.rewards.tolist(), b.mask.tolist(), mode, 1e-8))
    close(function(b.rewards, b.mask), reference.whiten(b.rewards.tolist(), b.mask.tolist(), "full", 1e-8))


def test_whiten_matches_the_reference():
    check_whiten(whiten)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("(x[mask], eps)", "(-x[mask], eps)"),
        ("(x[mask], eps)", "(x[mask].flip(0), eps)"),
        ("whitened[mask] = _WHITENED[mode](x[mask], eps)", "whitened = _WHITENED[mode](x, eps)"),
        ("whitened[mask] =", "whitened[mask.roll(1, 1)] ="),
        ('mode: str = "full"', 'mode: str = "center"'),
    ],
)
def test_broken_whiten_is_caught(old, new):
    assert_caught(check_whiten, mutant(whiten, old, new))


@pytest.mark.parametrize(
    ("mode", "broken"),
    [
        ("none", lambda kept, eps: kept - kept.mean()),
        ("center", lambda kept, eps: kept),
        ("full", lambda kept, eps: kept - kept.mean()),
        ("full", lambda kept, eps: kept / kept.std(correction=0)),
        ("full", lambda kept, eps: (kept - kept.mean()) / kept.std()),
    ],
)
def test_broken_whitening_modes_are_caught(monkeypatch, mode, broken):
    monkeypatch.setitem(advantages._WHITENED, mode, broken)
    assert_caught(check_whiten, whiten)


def test_whiten_by_hand():
    x = torch.tensor([[1.0, 50.0], [3.0, 5.0]], dtype=torch.float64)
    mask = torch.tensor([[True, False], [True, True]])
    close(whiten(x, mask, "center"), [[-2, 0], [0, 2]])
    scale = math.sqrt(8 / 3)
    torch.testing.assert_close(
        whiten(x, mask), torch.tensor([[-2 / scale, 0], [0, 2 / scale]], dtype=torch.float64), rtol=1e-8, atol=0
    )
