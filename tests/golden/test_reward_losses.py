"""Rankings, ratings, resampled pairs, the human-feedback loss and segment weights against the float64 reference."""

import math

import pytest
import torch

from mmrlhf_ray.algorithms.losses import (
    bradley_terry_loss,
    feedback_loss,
    language_term,
    plackett_luce_loss,
    rating_loss,
    sft_loss,
)
from mmrlhf_ray.algorithms.preference_loss import segment_logprobs
from tests.golden import reference_preference as reference
from tests.golden.support import assert_caught, batch, close, mutant

# Three rankings, their responses mixed up: of 4 with a tie in the middle, of 2, and one where all are tied.
SCORES = [0.3, -1.2, 2.0, 0.1, 1.5, -0.7, 0.9, 0.4]
RANKS = [2, 1, 1, 3, 2, 2, 1, 1]
ROWS = [7, 3, 7, 7, 7, 3, 5, 5]
RANKING_WEIGHTS = [2.0, 0.0, 2.0, 2.0, 2.0, 0.0, 1.0, 1.0]
NAN = math.nan
ASPECT_SCORES = [[0.6, 2.0], [-1.0, 0.3], [3.0, 1.0]]
RATINGS = [[1.0, NAN], [-2.0, 4.0], [NAN, NAN]]
RATING_WEIGHTS = [1.0, 3.0, 2.0]
H = [1.0, -1.0, 0.0, 0.5, -2.0, 1.0]


def rankings(weights: list[float]) -> list[list[tuple[float, int, float]]]:
    rows = list(zip(SCORES, RANKS, weights, ROWS, strict=True))
    return [[(s, rank, w) for s, rank, w, row in rows if row == number] for number in sorted(set(ROWS))]


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.tensor(SCORES, dtype=torch.float64), torch.tensor(RANKS), torch.tensor(ROWS)


def check_plackett_luce(function):
    loss, stats = function(*inputs(), 3.0)
    close(loss, reference.plackett_luce(rankings([1.0] * 8), 3.0))
    close(stats["reward_loss"], loss * 3)
    # Row 7: 2.0 over 0.3, 1.5 and 0.1; 0.3 and 1.5 over 0.1. Row 3: wrong way round. Row 5: nothing to compare.
    close(torch.stack([stats[key] for key in ("rankings", "pairs", "pair_accuracy")]), [3.0, 6.0, 5.0])
    weights = torch.tensor(RANKING_WEIGHTS, dtype=torch.float64)
    close(function(*inputs(), 7.0, weights)[0], reference.plackett_luce(rankings(RANKING_WEIGHTS), 7.0))


def check_rating(function):
    scores, ratings, weights = (torch.tensor(x, dtype=torch.float64) for x in (ASPECT_SCORES, RATINGS, RATING_WEIGHTS))
    loss, stats = function(scores, ratings, 3.0)
    close(loss, reference.rating(ASPECT_SCORES, RATINGS, [1.0] * 3, 3.0))
    close(torch.stack([stats["ratings"], stats["rating_error"], stats["reward_loss"]]), [3.0, 5.1, 3.0 * loss])
    close(function(scores, ratings, 7.0, weights)[0], reference.rating(ASPECT_SCORES, RATINGS, RATING_WEIGHTS, 7.0))


def check_weighted_pairs(function):
    chosen, rejected, counts = SCORES[:4], SCORES[4:], [0.0, 1.0, 3.0, 1.0]
    loss, _ = function(
        *(torch.tensor(x, dtype=torch.float64) for x in (chosen, rejected)),
        4.0,
        weights=torch.tensor(counts, dtype=torch.float64),
    )
    close(loss, reference.weighted_bradley_terry(chosen, rejected, counts, 4.0))


def check_feedback(function):
    for b in map(batch, range(3)):
        loss, stats = function(b.logprobs, b.mask, torch.tensor(H), 5.0)
        rows, masks = b.logprobs.tolist(), b.mask.tolist()
        close(loss, reference.feedback(rows, masks, H, 5.0))
        liked = reference.feedback(rows, masks, [float(h > 0) for h in H], -1.0)
        disliked = reference.feedback(rows, masks, [float(h < 0) for h in H], -1.0)
        close(torch.stack([stats["liked_logprobs"], stats["disliked_logprobs"]]), [liked, disliked])
        close(torch.stack([stats["feedback_rows"], stats["liked"], stats["disliked"]]), [5.0, 3.0, 2.0])


def check_segment(function):
    logprobs, changed = [-1.0, -2.5, -0.3, -4.0], [False, True, True, False]
    for weight in (1.0, 5.0, 0.3):
        want = reference.segment(logprobs, changed, weight)
        close(function(torch.tensor(logprobs, dtype=torch.float64), changed, weight), want)


def check_language(function):
    # Tokens of the rejected response are at −∞, where a gradient through them would be NaN.
    logprobs = torch.tensor([-0.5, -2.0, -math.inf, -3.0], dtype=torch.float64, requires_grad=True)
    loss, stats = function(logprobs, torch.tensor([True, True, False, True]), 6.0)
    close(loss, reference.language([[-0.5, -2.0], [-math.inf], [-3.0]], [True, False, True], 6.0))
    close(torch.stack([stats["language_tokens"], stats["language_nll"]]), [3.0, 5.5])
    (gradient,) = torch.autograd.grad(loss, logprobs)
    close(gradient, [-1 / 6, -1 / 6, 0.0, -1 / 6])


CHECKS = {
    language_term: check_language,
    plackett_luce_loss: check_plackett_luce,
    rating_loss: check_rating,
    bradley_terry_loss: check_weighted_pairs,
    feedback_loss: check_feedback,
    segment_logprobs: check_segment,
}

MUTANTS = {
    language_term: [
        ("total = -torch", "total = torch"),
        ("where(preferred,", "where(~preferred,"),
        ("where(preferred,", "where(preferred | True,"),
        ("total / denominator", "total / preferred.sum()"),
        ("preferred.sum()", "(~preferred).sum()"),
    ],
    plackett_luce_loss: [
        ("ranks[:, None] < ranks[None, :]", "ranks[:, None] > ranks[None, :]"),
        ("ranks[:, None] < ranks[None, :]", "ranks[:, None] <= ranks[None, :]"),
        ("(rows[:, None] == rows[None, :])", "(rows[:, None] >= 0)"),
        ("rows[:, None] ==", "rows.roll(1)[:, None] =="),
        ("(worse | itself)", "(worse.T | itself)"),
        ("dim=1) - scores", "dim=1) + scores"),
        ("dim=1) - scores", "dim=1) - scores.flip(0)"),
        ("total / denominator", "total / len(scores)"),
        ("per_response * weights", "per_response"),
        ("(right * worse)", "(right.T * worse)"),
    ],
    rating_loss: [
        ("scores - ratings.detach()", "scores + ratings.detach()"),
        ("scores - ratings.detach()", "scores - ratings.flip(0)"),
        ("torch.where(rated, ", "torch.where(rated | True, "),
        ("torch.where(rated, ", "torch.where(rated.roll(1, 0), "),
        ("0.5 * error", "error"),
        ("error.square()", "error.abs()"),
        ("total / denominator", "total / scores.numel()"),
        ("per_response * weights", "per_response"),
    ],
    bradley_terry_loss: [
        ("per_pair * weights", "per_pair"),
        ("per_pair * weights", "per_pair * weights.flip(0)"),
        ("total / denominator", "total / weights.sum()"),
    ],
    feedback_loss: [
        ("total = -(", "total = ("),
        ("feedback.detach()", "feedback.abs()"),
        ("feedback.detach()", "feedback.sign()"),
        ("feedback.detach()", "feedback.flip(0)"),
        ("torch.where(judged,", "torch.where(judged.roll(1, 1),"),
        ("torch.where(judged,", "torch.where(judged | True,"),
        (".sum(dim=1)", ".mean(dim=1)"),
        ("total / denominator", "total / len(feedback)"),
        ("(liked * responses)", "(disliked * responses)"),
    ],
    segment_logprobs: [
        ("masked_fill(flags", "masked_fill(~flags"),
        ("masked_fill(flags", "masked_fill(flags.roll(1)"),
        ("/ weights.sum()", "/ len(weights)"),
        ("(weights * logprobs)", "(logprobs)"),
    ],
}


@pytest.mark.parametrize("function", CHECKS, ids=lambda f: f.__name__)
def test_matches_the_reference(function):
    CHECKS[function](function)


@pytest.mark.parametrize(
    ("function", "old", "new"),
    [(function, old, new) for function, pieces in MUTANTS.items() for old, new in pieces],
    ids=lambda x: getattr(x, "__name__", None),
)
def test_broken_losses_are_caught(function, old, new):
    assert_caught(CHECKS[function], mutant(function, old, new))


def test_two_responses_are_a_bradley_terry_pair():
    chosen, rejected = (torch.tensor(x, dtype=torch.float64) for x in (SCORES[:4], SCORES[4:]))
    pairs = [x.clone().requires_grad_() for x in (chosen, rejected)]
    want, want_stats = bradley_terry_loss(*pairs, 4.0)
    want.backward()
    scores = torch.cat([rejected, chosen]).requires_grad_()
    ranks, rows = torch.tensor([2] * 4 + [1] * 4), torch.arange(4).repeat(2)
    got, got_stats = plackett_luce_loss(scores, ranks, rows, 4.0)
    got.backward()
    close(got, want)
    close(scores.grad, torch.cat([pairs[1].grad, pairs[0].grad]))
    for key in ("reward_loss", "pair_accuracy", "pairs"):
        close(got_stats[key], want_stats[key])


def test_without_ties_the_loss_is_the_negative_log_probability_of_the_order():
    scores = [0.4, -1.0, 1.3, 0.2]
    total = 0.0
    for order in reference.orders(4):
        ranks = torch.tensor([order.index(i) + 1 for i in range(4)])
        x = torch.tensor(scores, dtype=torch.float64)
        loss, _ = plackett_luce_loss(x, ranks, torch.zeros(4, dtype=torch.long), 1.0)
        close(loss, -math.log(reference.plackett_luce_probability(scores, order)))
        total += math.exp(-loss.item())
    assert total == pytest.approx(1.0)


def test_ranking_by_hand():
    # Ranks 1, 2, 2 with equal scores: log 3 for the best; the tied two have nobody below them.
    loss, stats = plackett_luce_loss(torch.zeros(3), torch.tensor([1, 2, 2]), torch.zeros(3, dtype=torch.long), 1.0)
    assert loss.item() == pytest.approx(math.log(3))
    assert (stats["pairs"].item(), stats["pair_accuracy"].item()) == (2, 1)
    # Ranks 1, 1, 2: log 2 for each of the tied two.
    loss, _ = plackett_luce_loss(torch.zeros(3), torch.tensor([1, 1, 2]), torch.zeros(3, dtype=torch.long), 1.0)
    assert loss.item() == pytest.approx(2 * math.log(2))


def test_tied_responses_do_not_push_each_other():
    scores = torch.tensor([5.0, -3.0], dtype=torch.float64, requires_grad=True)
    loss, _ = plackett_luce_loss(scores, torch.tensor([1, 1]), torch.tensor([0, 0]), 1.0)
    loss.backward()
    assert loss.item() == 0
    close(scores.grad, [0.0, 0.0])


def test_rating_by_hand_and_without_nan_in_the_gradient():
    scores = torch.tensor([[3.0, 1.0]], dtype=torch.float64, requires_grad=True)
    loss, _ = rating_loss(scores, torch.tensor([[1.0, NAN]], dtype=torch.float64), 1.0)
    loss.backward()
    assert loss.item() == 2
    close(scores.grad, [[2.0, 0.0]])


def test_feedback_by_hand():
    logprobs = torch.tensor([[-1.0, -2.0], [-4.0, 9.0], [NAN, NAN]], dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True, True], [True, False], [True, True]])
    loss, stats = feedback_loss(logprobs, mask, torch.tensor([1.0, -1.0, 0.0]), 2.0)
    loss.backward()
    assert loss.item() == pytest.approx(-(-3.0 + 4.0) / 2)
    close(logprobs.grad, [[-0.5, -0.5], [0.5, 0.0], [0.0, 0.0]])
    assert (stats["liked_logprobs"].item(), stats["disliked_logprobs"].item()) == (-3, -4)


def test_liked_responses_alone_are_the_nll_of_demonstrations():
    b = batch()
    got, _ = feedback_loss(b.logprobs, b.mask, torch.ones(len(b.mask)), b.tokens)
    close(got, sft_loss(b.logprobs, b.mask, b.tokens)[0])


def test_segment_by_hand():
    # One changed token that counts 3: (-1 + 3 * -2) / (1 + 3).
    x = torch.tensor([-1.0, -2.0], dtype=torch.float64, requires_grad=True)
    got = segment_logprobs(x, [False, True], 3.0)
    got.backward()
    assert got.item() == pytest.approx(-7 / 4)
    close(x.grad, [0.25, 0.75])
