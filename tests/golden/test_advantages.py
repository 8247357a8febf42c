"""Rewards, estimators and whitening against the float64 reference and by hand."""

import math

import pytest
import torch

from mmrlhf_ray.algorithms import advantages, segments
from mmrlhf_ray.algorithms.advantages import (
    OUTCOME_ESTIMATORS,
    TOKEN_ESTIMATORS,
    WHITEN_DEFAULT,
    gae,
    group_centred,
    grpo,
    reinforce,
    rloo,
    token_rewards,
    turns_to_go,
    whiten_,
)
from mmrlhf_ray.algorithms.segments import row_sums, spread
from mmrlhf_ray.algorithms.statistics import normalised_in_groups
from tests.golden import reference
from tests.golden.support import assert_caught, batch, close, flat, grid, mutant


def check_token_rewards(function):
    b = batch()
    scores = torch.tensor([1.0, -2.0, 0.5, 3.0, -1.0, 2.0], dtype=torch.float64)
    close(
        grid(function(scores, flat(b.logprobs, b.mask), b.lengths, 0.05), b.mask),
        reference.token_rewards(scores.tolist(), b.logprobs.tolist(), b.mask.tolist(), 0.05),
    )


def test_token_rewards_match_the_reference():
    check_token_rewards(token_rewards)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("-kl_coef * kl", "kl_coef * kl"),
        ("1] += scores", "1] -= scores"),
        ("cumsum(0) - 1] +=", "cumsum(0) - 2] +="),
        ("cumsum(0) - 1] +=", "cumsum(0) - lengths] +="),
        ("1] += scores", "1] = scores"),
        ("1] += scores.to(rewards.dtype)", "1] += scores.flip(0)"),
        ("-kl_coef * kl", "-kl_coef * kl.roll(1)"),
    ],
)
def test_broken_token_rewards_are_caught(old, new):
    assert_caught(check_token_rewards, mutant(token_rewards, old, new))


def test_token_rewards_by_hand():
    kl, lengths = torch.tensor([0.5, 1.0, 2.0]), torch.tensor([2, 1])
    got = token_rewards(torch.tensor([3.0, -1.0]), kl, lengths, 0.1)
    torch.testing.assert_close(got, torch.tensor([-0.05, 2.9, -1.2]))


def check_gae(function):
    b = batch()
    for gamma, lam in ((1.0, 0.95), (0.9, 0.8), (1.0, 1.0), (0.97, 0.0)):
        got, returns = function(flat(b.rewards, b.mask), flat(b.values, b.mask), b.lengths, gamma, lam)
        want = reference.gae(b.rewards.tolist(), b.values.tolist(), b.mask.tolist(), gamma, lam)
        close(grid(got, b.mask), want[0])
        close(grid(returns, b.mask), want[1])


def test_gae_matches_the_reference():
    check_gae(gae)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("- values,", "+ values,"),
        ("+ gamma * next_values", "- gamma * next_values"),
        ("lengths, gamma * gae_lambda", "lengths, -gamma * gae_lambda"),
        ("lengths, gamma * gae_lambda", "lengths, gae_lambda"),
        ("lengths, gamma * gae_lambda", "lengths, gamma"),
        ("values.roll(-1)", "values.roll(-2)"),
        ("next_values[lengths.cumsum(0) - 1] = 0", ""),
        ("lengths.cumsum(0) - 1] = 0", "lengths.cumsum(0) - lengths] = 0"),
        ("advantages + values", "advantages"),
        ("(rewards + gamma", "(rewards.roll(1) + gamma"),
        ("values, lengths, gamma", "values, lengths.flip(0), gamma"),
    ],
)
def test_broken_gae_is_caught(old, new):
    assert_caught(check_gae, mutant(gae, old, new))


@pytest.mark.parametrize("piece", [2, 3])
def test_gae_in_pieces_matches_the_reference(monkeypatch, piece):
    monkeypatch.setattr(segments, "_PIECE", piece)
    check_gae(gae)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("alpha=decay)", "alpha=1)"),
        ("range(_PIECE - 2, -1, -1)", "range(_PIECE - 1)"),
        ("range(_PIECE - 2, -1, -1)", "range(_PIECE - 2, 0, -1)"),
        ("sums.index_select(0, where)", "sums"),
        ("decay**_PIECE", "decay"),
        ("pieces, decay", "pieces.flip(0), decay"),
        (".roll(-1)", ""),
        ("after[last] = 0", ""),
        ("after = after[order]", ""),
        ("places[0][rank]", "places[0]"),
        ("(_PIECE - number)", "number"),
    ],
)
def test_broken_sums_to_go_are_caught(monkeypatch, old, new):
    monkeypatch.setattr(segments, "_PIECE", 3)
    monkeypatch.setattr(advantages, "sums_to_go", mutant(segments.sums_to_go, old, new))
    assert_caught(check_gae, gae)


def test_gae_by_hand():
    # One reward of 1 at the end, values 0.5, 0.25, gamma = 1, lambda = 0.5:
    # delta_1 = 1 - 0.25 = 0.75; delta_0 = 0.25 - 0.5 = -0.25; A_0 = -0.25 + 0.5 * 0.75 = 0.125.
    # The second row must not leak into the first.
    rewards, values = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([0.5, 0.25, 1.5])
    got, returns = gae(rewards, values, torch.tensor([2, 1]), gamma=1.0, gae_lambda=0.5)
    torch.testing.assert_close(got, torch.tensor([0.125, 0.75, 0.5]))
    torch.testing.assert_close(returns, torch.tensor([0.625, 1.0, 2.0]))


def test_gae_of_a_row_does_not_depend_on_the_batch():
    b = batch()
    rewards, values = flat(b.rewards, b.mask), flat(b.values, b.mask)
    together, _ = gae(rewards, values, b.lengths, 0.99, 0.9)
    sizes = b.lengths.tolist()
    for one, value, want in zip(rewards.split(sizes), values.split(sizes), together.split(sizes), strict=True):
        close(gae(one, value, torch.tensor([len(one)]), 0.99, 0.9)[0], want)


GROUPS = torch.tensor([4, 9, 4, 9, 9, 9])
KINDS = {group_centred: "mean", rloo: "others", grpo: "standard"}


def check_reinforce(function):
    b = batch()
    for gamma in (1.0, 0.9, 0.0):
        want = reference.reinforce(b.rewards.tolist(), b.mask.tolist(), gamma)
        close(grid(function(flat(b.rewards, b.mask), b.lengths, gamma), b.mask), want)


def test_reinforce_matches_the_reference():
    check_reinforce(reinforce)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("sums_to_go(rewards,", "sums_to_go(-rewards,"),
        ("lengths, gamma)", "lengths, 1.0)"),
        ("sums_to_go(rewards, lengths", "sums_to_go(rewards, lengths.flip(0)"),
        ("sums_to_go(rewards,", "sums_to_go(rewards.flip(0),"),
    ],
)
def test_a_broken_reinforce_is_caught(old, new):
    assert_caught(check_reinforce, mutant(reinforce, old, new))


def test_reinforce_by_hand():
    got = reinforce(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2, 1]), 0.5)
    torch.testing.assert_close(got, torch.tensor([1 + 0.5 * 2, 2.0, 3.0]))


def check_group(function, kind):
    b = batch()
    outcomes = row_sums(flat(b.rewards, b.mask), b.lengths)
    for groups in (GROUPS, torch.tensor([0, 1, 1, 0, 2, 2])):
        want = reference.group_advantages(b.rewards.tolist(), b.mask.tolist(), groups.tolist(), kind)
        close(grid(spread(function(outcomes, groups), b.lengths), b.mask), want)


@pytest.mark.parametrize(("function", "kind"), KINDS.items(), ids=KINDS.values())
def test_group_estimators_match_the_reference(function, kind):
    check_group(function, kind)


@pytest.mark.parametrize(
    ("function", "old", "new"),
    [
        *((f, "_Group.of(outcomes", "_Group.of(-outcomes") for f in KINDS),
        *((f, "_Group.of(outcomes", "_Group.of(outcomes.flip(0)") for f in KINDS),
        # Within the group of four alone: the second and the fifth row change places.
        *((f, "_Group.of(outcomes", "_Group.of(outcomes[[0, 4, 2, 3, 1, 5]]") for f in KINDS),
        *((f, "of(outcomes, groups)", "of(outcomes, groups.roll(1))") for f in KINDS),
        *((f, "of(outcomes, groups)", "of(outcomes, 0 * groups)") for f in KINDS),
        (rloo, "* group.size / (group.size - 1)", ""),
        (rloo, "/ (group.size - 1)", "/ (group.size + 1)"),
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
    order = [2, 4, 0, 1, 5, 3]
    outcomes = torch.tensor([1.0, -2.0, 0.5, 3.0, -1.0, 2.0], dtype=torch.float64)
    assert GROUPS[order].tolist() == GROUPS.tolist()
    close(function(outcomes[order], GROUPS), function(outcomes, GROUPS)[order])


def test_group_estimators_by_hand():
    # Outcomes 1, 3, 8 and 5, 5 of two prompts.
    outcomes = torch.tensor([1.0, 5.0, 3.0, 5.0, 8.0], dtype=torch.float64)
    groups = torch.tensor([7, 3, 7, 3, 7])
    close(group_centred(outcomes, groups), [-3, 0, -1, 0, 4])
    close(rloo(outcomes, groups), [-4.5, 0, -1.5, 0, 6])
    std = math.sqrt((9 + 1 + 16) / 2) + 1e-6
    close(grpo(outcomes, groups), [-3 / std, 0, -1 / std, 0, 4 / std])


@pytest.mark.parametrize("function", KINDS)
def test_equal_outcomes_give_exactly_nothing(function):
    # The mean of three times 0.1 is not 0.1 in floating point, and 1e-17 over 1e-6 would be a direction to learn.
    got = function(torch.full((3,), 0.1, dtype=torch.float64), torch.zeros(3, dtype=torch.long))
    assert got.eq(0).all()


@pytest.mark.parametrize("function", KINDS)
def test_a_missing_outcome_is_not_taken_for_an_equal_one(function):
    got = function(torch.tensor([1.0, math.nan]), torch.zeros(2, dtype=torch.long))
    assert got.isnan().all()


def test_a_response_without_others_to_compare():
    outcomes, groups = torch.tensor([2.0, 1.0, 4.0]), torch.tensor([0, 5, 0])
    assert grpo(outcomes, groups)[1].item() == 0
    assert group_centred(outcomes, groups)[1].item() == 0
    with pytest.raises(ValueError, match=r"groups \[5\] have one"):
        rloo(outcomes, groups)


def test_rloo_and_centring_agree_up_to_a_factor():
    outcomes = torch.tensor([1.0, -2.0, 0.5, 3.0, -1.0, 2.0], dtype=torch.float64)
    size = torch.tensor([2.0, 4, 2, 4, 4, 4], dtype=torch.float64)
    close(rloo(outcomes, GROUPS), group_centred(outcomes, GROUPS) * size / (size - 1))


def test_the_tables_agree():
    assert set(WHITEN_DEFAULT) == {*OUTCOME_ESTIMATORS, *TOKEN_ESTIMATORS, "gae"}
    assert {name for name, mode in WHITEN_DEFAULT.items() if mode == "full"} == {
        "gae",
        "reinforce_pp",
        "reinforce_pp_baseline",
    }


def check_whiten(function):
    b = batch()
    x = flat(b.rewards, b.mask)
    for given in (("none",), ("center",), ("full",), ()):
        want = reference.whiten(b.rewards.tolist(), b.mask.tolist(), (*given, "full")[0], 1e-8)
        close(grid(function(x.clone(), *given), b.mask), want)


def test_whiten_matches_the_reference():
    check_whiten(whiten_)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("[mode](x, eps)", "[mode](-x, eps)"),
        ("[mode](x, eps)", "[mode](x.flip(0), eps)"),
        ('mode: str = "full"', 'mode: str = "center"'),
    ],
)
def test_broken_whiten_is_caught(old, new):
    assert_caught(check_whiten, mutant(whiten_, old, new))


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
    assert_caught(check_whiten, whiten_)


def test_whiten_by_hand():
    x = torch.tensor([1.0, 3.0, 5.0], dtype=torch.float64)
    close(whiten_(x.clone(), "center"), [-2, 0, 2])
    scale = math.sqrt(8 / 3)
    torch.testing.assert_close(
        whiten_(x), torch.tensor([-2 / scale, 0, 2 / scale], dtype=torch.float64), rtol=1e-8, atol=0
    )


TURNS = [[0.0, 1.0, 0.5], [0.25], [2.0, -1.0], [0.5, 0.5, 0.5, 3.0], [1.0]]
"""Rewards of the turns of five responses, of which the first three answer one prompt and the others another."""
OF_PROMPT = [4, 4, 4, 9, 9]
TURN_TOKENS = 2


def check_process_advantages(function):
    flat_rewards = [reward for row in TURNS for reward in row]
    owners = [group for row, group in zip(TURNS, OF_PROMPT, strict=True) for _ in row]
    units = torch.from_numpy(normalised_in_groups(flat_rewards, owners))
    at_ends = torch.stack([torch.zeros_like(units), units], dim=1).flatten()
    got = function(at_ends, torch.tensor([TURN_TOKENS * len(row) for row in TURNS]))
    want = [a for row in reference.process_advantages(TURNS, OF_PROMPT) for a in row for _ in range(TURN_TOKENS)]
    torch.testing.assert_close(got, torch.tensor(want, dtype=torch.float64), rtol=0, atol=1e-9)


def test_process_supervision_matches_the_reference():
    check_process_advantages(turns_to_go)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("lengths, 1.0", "lengths, 0.9"),
        ("sums_to_go(of_turns", "sums_to_go(of_turns.roll(1)"),
        ("sums_to_go(of_turns", "sums_to_go(-of_turns"),
        ("of_turns, lengths, 1.0", "of_turns, lengths.sum()[None], 1.0"),
    ],
)
def test_broken_process_supervision_is_caught(old, new):
    assert_caught(check_process_advantages, mutant(turns_to_go, old, new))
