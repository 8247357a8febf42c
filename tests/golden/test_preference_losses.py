"""Preference objectives against the float64 reference, by hand, and broken on purpose."""

import math

import pytest
import torch

from mmrlhf_ray.algorithms import preference_loss
from mmrlhf_ray.algorithms.preference_loss import (
    bco_delta,
    bco_loss,
    dpo_loss,
    ipo_loss,
    kto_loss,
    kto_reference_kl,
    margin_beta,
    mpo_loss,
    orpo_loss,
    simpo_loss,
)
from tests.golden import reference_preference as reference
from tests.golden.support import assert_caught, close, mutant

CHOSEN = [-3.0, -7.5, -1.2, -9.0, -4.0]
REJECTED = [-4.0, -6.0, -5.5, -9.5, -4.1]
REF_CHOSEN = [-3.5, -7.0, -2.0, -8.0, -4.4]
REF_REJECTED = [-3.0, -6.6, -4.0, -9.9, -4.9]
FEEDBACK = [1.0, -1.0, 0.0, 0.5, -0.25]
MEAN_CHOSEN = [-0.3, -1.1, -0.02, -2.0, -0.7]
MEAN_REJECTED = [-0.5, -0.9, -0.6, -0.01, -1.7]
MEAN_REF_CHOSEN = [-0.4, -1.0, -0.3, -1.5, -0.9]
MEAN_REF_REJECTED = [-0.45, -1.2, -0.5, -0.2, -1.1]
MARGIN = [0.0, 0.5, 1.0, 3.0, 0.2]
WEIGHTS = (0.8, 0.2, 1.0)


def tensors(*rows: list[float]) -> list[torch.Tensor]:
    return [torch.tensor(row, dtype=torch.float64) for row in rows]


SUMS = (CHOSEN, REJECTED, REF_CHOSEN, REF_REJECTED)
MEANS = (MEAN_CHOSEN, MEAN_REJECTED, MEAN_REF_CHOSEN, MEAN_REF_REJECTED)


def check_dpo(function):
    for smoothing, denominator in ((0.0, 5.0), (0.1, 7.0)):
        loss, stats = function(*tensors(*SUMS), 0.3, denominator, smoothing)
        close(loss, reference.dpo(*SUMS, [0.3] * 5, smoothing, denominator))
        close(stats["preference_loss"], loss * denominator)
    per_pair = [0.1, 0.2, 0.5, 1.0, 0.05]
    loss, stats = function(*tensors(*SUMS), *tensors(per_pair), 5.0)
    close(loss, reference.dpo(*SUMS, per_pair, 0.0, 5.0))
    close(stats["reward_chosen"], sum(b * (c - q) for b, c, q in zip(per_pair, CHOSEN, REF_CHOSEN, strict=True)))
    close(stats["reward_rejected"], sum(b * (c - q) for b, c, q in zip(per_pair, REJECTED, REF_REJECTED, strict=True)))


def check_ipo(function):
    for beta, denominator in ((0.3, 5.0), (2.0, 7.0)):
        loss, stats = function(*tensors(*MEANS), beta, denominator)
        close(loss, reference.ipo(*MEANS, beta, denominator))
        rewards = (sum(beta * (x - q) for x, q in zip(*pair, strict=True)) for pair in (MEANS[0::2], MEANS[1::2]))
        close(torch.stack([stats["reward_chosen"], stats["reward_rejected"]]), list(rewards))


def check_kto(function):
    for kl, beta, liked, disliked, denominator in ((0.0, 0.1, 1.0, 1.0, 4.0), (0.7, 0.5, 1.3, 0.6, 9.0)):
        loss, _ = function(*tensors(CHOSEN, REF_CHOSEN, FEEDBACK), kl, beta, liked, disliked, denominator)
        close(loss, reference.kto(CHOSEN, REF_CHOSEN, FEEDBACK, kl, beta, liked, disliked, denominator))


def check_orpo(function):
    for beta, denominator in ((0.1, 5.0), (1.0, 7.0)):
        loss, stats = function(*tensors(MEAN_CHOSEN, MEAN_REJECTED), beta, denominator)
        close(loss, reference.orpo(MEAN_CHOSEN, MEAN_REJECTED, beta, denominator))
        close(stats["reward_chosen"], beta * sum(MEAN_CHOSEN))
        close(stats["reward_rejected"], beta * sum(MEAN_REJECTED))
        close(stats["chosen_nll"], -sum(MEAN_CHOSEN))


def check_simpo(function):
    for beta, margin, denominator in ((2.0, 0.5, 5.0), (0.7, 0.0, 7.0)):
        loss, stats = function(*tensors(MEAN_CHOSEN, MEAN_REJECTED), beta, margin, denominator)
        close(loss, reference.simpo(MEAN_CHOSEN, MEAN_REJECTED, beta, margin, denominator))
        close(stats["reward_chosen"] - stats["reward_rejected"], beta * (sum(MEAN_CHOSEN) - sum(MEAN_REJECTED)))


def check_bco(function):
    for delta, beta, denominator in ((0.0, 0.1, 4.0), (-0.3, 0.5, 9.0)):
        loss, _ = function(*tensors(CHOSEN, REF_CHOSEN, FEEDBACK), delta, beta, denominator)
        close(loss, reference.bco(CHOSEN, REF_CHOSEN, FEEDBACK, delta, beta, denominator))


def check_mpo(function):
    for delta, beta, weights, denominator in ((0.2, 0.1, WEIGHTS, 5.0), (-0.4, 0.5, (0.3, 0.5, 0.9), 7.0)):
        loss, stats = function(*tensors(*SUMS, MEAN_CHOSEN), delta, beta, weights, denominator)
        close(loss, reference.mpo(*SUMS, MEAN_CHOSEN, delta, beta, weights, denominator))
        close(stats["preference_loss"], loss * denominator)
        parts = torch.stack([stats[key] for key in ("dpo_loss", "bco_loss", "chosen_nll")])
        close(torch.tensor(weights, dtype=torch.float64) @ parts, stats["preference_loss"])


def check_margin_beta(function):
    for beta, scale, rate in ((0.1, 0.0, 1.0), (0.1, 0.5, 2.0), (0.3, 1.5, 0.4)):
        close(function(beta, *tensors(MARGIN), scale, rate), reference.margin_beta(beta, MARGIN, scale, rate))


CHECKS = {
    dpo_loss: check_dpo,
    ipo_loss: check_ipo,
    kto_loss: check_kto,
    orpo_loss: check_orpo,
    simpo_loss: check_simpo,
    bco_loss: check_bco,
    mpo_loss: check_mpo,
    margin_beta: check_margin_beta,
}

MUTANTS = {
    dpo_loss: [
        ("difference = reward_chosen - reward_rejected", "difference = reward_rejected - reward_chosen"),
        ("difference = reward_chosen - reward_rejected", "difference = reward_chosen + reward_rejected"),
        ("difference = reward_chosen - reward_rejected", "difference = reward_chosen - reward_rejected.flip(0)"),
        ("beta * (chosen - ref_chosen.detach())", "beta * chosen"),
        ("beta * (rejected - ref_rejected.detach())", "beta * rejected - ref_rejected.detach()"),
        ("ref_rejected.detach()", "ref_chosen"),
        ("ref_chosen.detach()", "ref_chosen.roll(1, 0)"),
        ("-(1.0 - label_smoothing)", "-(1.0 + label_smoothing)"),
        ("- label_smoothing * logsigmoid(-difference)", ""),
        ("logsigmoid(-difference)", "logsigmoid(difference)"),
        ("per_pair.sum()", "per_pair.mean()"),
        ("total / denominator", "total / len(chosen)"),
        ("_pair_stats(total, reward_chosen, reward_rejected)", "_pair_stats(total, reward_rejected, reward_chosen)"),
    ],
    ipo_loss: [
        ("- 1.0 / (2.0 * beta)", "+ 1.0 / (2.0 * beta)"),
        ("- 1.0 / (2.0 * beta)", "- 1.0 / beta"),
        ("- 1.0 / (2.0 * beta)", "- beta / 2.0"),
        ("(ratio_chosen - ratio_rejected -", "(ratio_rejected - ratio_chosen -"),
        ("(ratio_chosen - ratio_rejected -", "(beta * (ratio_chosen - ratio_rejected) -"),
        ("- ref_rejected_mean.detach()", ""),
        ("- ref_chosen_mean.detach()", "- ref_chosen_mean.flip(0)"),
        (".square()", ".abs()"),
        ("total / denominator", "total / len(chosen_mean)"),
        ("beta * ratio_chosen,", "ratio_chosen,"),
    ],
    kto_loss: [
        ("-feedback.sign()", "feedback.sign()"),
        ("-feedback.sign() *", "-1.0 *"),
        ("rewards - beta * kl", "rewards + beta * kl"),
        ("rewards - beta * kl", "rewards - kl"),
        ("rewards - beta * kl", "rewards"),
        ("rewards - beta * kl", "rewards.flip(0) - beta * kl"),
        ("weight = desirable_weight", "weight = undesirable_weight"),
        ("- undesirable_weight", "- desirable_weight"),
        ("- undesirable_weight", "+ undesirable_weight"),
        ("desirable_weight * feedback.clamp(min=0)", "desirable_weight * (feedback > 0)"),
        ("feedback, beta)", "-feedback, 2 * beta)"),
        ("total / denominator", "total / (feedback != 0).sum()"),
    ],
    orpo_loss: [
        ("_log_odds(chosen_mean) - _log_odds(rejected_mean)", "_log_odds(rejected_mean) - _log_odds(chosen_mean)"),
        ("_log_odds(chosen_mean) - _log_odds(rejected_mean)", "chosen_mean - rejected_mean"),
        ("(-chosen_mean - beta", "(chosen_mean - beta"),
        ("(-chosen_mean - beta", "(-chosen_mean + beta"),
        ("(-chosen_mean - beta", "(-rejected_mean - beta"),
        ("(-chosen_mean - beta", "(-beta * chosen_mean - 1.0"),
        ("(-chosen_mean - beta", "(0 * chosen_mean - beta"),
        ("logsigmoid(log_odds_ratio)", "logsigmoid(beta * log_odds_ratio)"),
        ("- _log_odds(rejected_mean)", "- _log_odds(rejected_mean.flip(0))"),
        ("total / denominator", "total / len(chosen_mean)"),
    ],
    simpo_loss: [
        ("reward_chosen - reward_rejected - margin", "reward_rejected - reward_chosen - margin"),
        ("reward_rejected - margin", "reward_rejected + margin"),
        ("reward_rejected - margin", "reward_rejected - beta * margin"),
        ("reward_rejected - margin", "reward_rejected"),
        ("reward_rejected - margin", "reward_rejected.flip(0) - margin"),
        ("total = -logsigmoid", "total = logsigmoid"),
        ("beta * rejected_mean", "rejected_mean"),
        ("total / denominator", "total / len(chosen_mean)"),
    ],
    bco_loss: [
        ("total = -(", "total = ("),
        ("rewards - delta", "rewards + delta"),
        ("rewards - delta", "rewards - beta * delta"),
        ("rewards - delta", "rewards.roll(1, 0) - delta"),
        ("feedback.sign() * (", "(-feedback.sign()) * ("),
        ("feedback.sign() * (", "feedback * ("),
        ("feedback.abs() *", "(feedback != 0) *"),
        ("feedback.abs() *", "feedback *"),
        ("total / denominator", "total / (feedback != 0).sum()"),
    ],
    mpo_loss: [
        ("weights[0] * preference", "weights[1] * preference"),
        ("weights[1] * quality", "weights[0] * quality"),
        ("weights[1] * quality", "weights[1] * quality / 2"),
        ("weights[2] * nll", "nll"),
        ("weights[2] * nll / denominator", "weights[2] * nll / len(chosen)"),
        ("+ weights[2] * nll / denominator", ""),
        ("nll = -chosen_mean", "nll = chosen_mean"),
        ("nll = -chosen_mean.sum()", "nll = -chosen.sum()"),
        ("-torch.ones_like(rejected)", "torch.ones_like(rejected)"),
        ("torch.cat([chosen, rejected])", "torch.cat([rejected, chosen])"),
        ("torch.cat([ref_chosen, ref_rejected])", "torch.cat([ref_rejected, ref_chosen])"),
        ("feedback, delta, beta", "feedback, -delta, beta"),
        ("ref_rejected, beta, denominator", "ref_rejected, 1.0, denominator"),
    ],
    margin_beta: [
        ("1.0 - scale", "1.0 + scale"),
        ("expm1(-rate", "expm1(rate"),
        ("expm1(", "exp("),
        ("margin.detach()", "margin.flip(0)"),
        ("return beta *", "return beta +"),
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


@pytest.mark.parametrize(
    ("function", "helper", "old", "new"),
    [
        (kto_loss, "_rewards", "beta * (", "("),
        (bco_loss, "_rewards", "logprobs - ref_logprobs", "ref_logprobs - logprobs"),
        (bco_loss, "_rewards", "logprobs - ref_logprobs.detach()", "logprobs"),
        (orpo_loss, "_log_odds", "logprobs - torch.log", "logprobs + torch.log"),
        (orpo_loss, "_log_odds", "-torch.expm1(below_one)", "torch.exp(below_one)"),
    ],
)
def test_broken_helpers_are_caught(monkeypatch, function, helper, old, new):
    monkeypatch.setattr(preference_loss, helper, mutant(getattr(preference_loss, helper), old, new))
    assert_caught(CHECKS[function], function)


def test_dpo_by_hand():
    # Rewards 0.5 * 2 and 0.5 * (-2): -log σ(2); the mirrored pair: -log σ(-2).
    chosen, rejected, zero = *tensors([-1.0, -5.0], [-5.0, -1.0]), torch.full((2,), -3.0, dtype=torch.float64)
    chosen.requires_grad_()
    loss, stats = dpo_loss(chosen, rejected, zero, zero, 0.5, 2.0)
    assert loss.item() == pytest.approx((math.log(1 + math.exp(-2)) + math.log(1 + math.exp(2))) / 2)
    loss.backward()
    # -β σ(-βh) / P: the gradient is large where the model is wrong.
    close(chosen.grad, [-0.25 / (1 + math.exp(2)), -0.25 / (1 + math.exp(-2))])
    assert {k: v.item() for k, v in stats.items()} == pytest.approx(
        {
            "pairs": 2,
            "preference_loss": 2 * loss.item(),
            "preference_accuracy": 1,
            "reward_chosen": 0,
            "reward_rejected": 0,
        }
    )


def test_equal_responses_cost_log_two_and_count_as_half_right():
    x = torch.tensor([-4.0])
    for loss, stats in (dpo_loss(x, x, x, x, 0.1, 1.0), simpo_loss(x, x, 2.0, 0.0, 1.0)):
        assert loss.item() == pytest.approx(math.log(2))
        assert stats["preference_accuracy"].item() == 0.5


def test_ipo_by_hand():
    # h = 0.2 - (-0.3) = 0.5 is the target 1/(2 * 1); at h = 0 the loss is 1/4.
    chosen, rejected, ref = tensors([-0.8, -1.0], [-1.3, -1.0], [-1.0, -1.0])
    loss, _ = ipo_loss(chosen, rejected, ref, ref, 1.0, 1.0)
    assert loss.item() == pytest.approx(0.25)


def test_kto_by_hand():
    # Both at the reference point: λ(1 - 1/2). A third response has no feedback, and no number either.
    logprobs = torch.tensor([-2.0, -2.0, math.nan], dtype=torch.float64, requires_grad=True)
    ref, feedback = tensors([-3.0, -3.0, -3.0], [1.0, -1.0, 0.0])
    loss, stats = kto_loss(logprobs, ref, feedback, 1.0, 0.5, 1.2, 0.8, 2.0)
    assert loss.item() == pytest.approx((1.2 + 0.8) / 2 / 2)
    loss.backward()
    # -λ β σ' / 2 with σ' = 1/4.
    close(logprobs.grad, [-1.2 * 0.5 / 4 / 2, 0.8 * 0.5 / 4 / 2, 0.0])
    got = {k: v.item() for k, v in stats.items() if k != "preference_loss"}
    want = {"responses": 2, "liked": 1, "disliked": 1, "preference_accuracy": 1}
    assert got == want | {"reward_chosen": 0.5, "reward_rejected": 0.5}


def test_orpo_by_hand():
    # p = 0.8 against p = 0.5: odds 4 and 1, σ(log 4) = 4/5.
    loss, _ = orpo_loss(*tensors([math.log(0.8)], [math.log(0.5)]), 0.1, 1.0)
    assert loss.item() == pytest.approx(-math.log(0.8) - 0.1 * math.log(4 / 5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_orpo_is_finite_for_certain_and_for_hopeless_responses(dtype):
    certain = torch.tensor([0.0, -1e-9, -80.0, 0.0], dtype=dtype, requires_grad=True)
    hopeless = torch.tensor([-80.0, -1e-9, 0.0, 0.0], dtype=dtype, requires_grad=True)
    loss, _ = orpo_loss(certain, hopeless, 0.1, 4.0)
    loss.backward()
    for x in (loss, certain.grad, hopeless.grad):
        assert torch.isfinite(x).all()


def test_orpo_keeps_its_digits_near_one():
    # 1 - p = 1e-12: log odds is -log(1e-12) to eleven digits, where 1 - exp(x) would keep four.
    loss, stats = orpo_loss(*tensors([-1.0], [-1e-12]), 1.0, 1.0)
    odds_chosen = math.exp(-1) / (1 - math.exp(-1))
    assert loss.item() - 1.0 == pytest.approx(math.log1p(1e12 / odds_chosen), rel=1e-12)
    assert stats["preference_accuracy"].item() == 0


def test_simpo_by_hand():
    # 2 * (-0.5 + 1) = 1 is the margin: -log σ(0).
    loss, stats = simpo_loss(*tensors([-0.5], [-1.0]), 2.0, 1.0, 1.0)
    assert loss.item() == pytest.approx(math.log(2))
    assert stats["reward_chosen"].item() == -1
    assert stats["reward_rejected"].item() == -2


def test_bco_by_hand():
    # r = 0.5 * 2 = 1 with δ = 1: log 2, whether liked or disliked; a tie with δ is half right.
    loss, stats = bco_loss(*tensors([-1.0, -1.0, 9.0], [-3.0, -3.0, 0.0], [1.0, -1.0, 0.0]), 1.0, 0.5, 2.0)
    assert loss.item() == pytest.approx(math.log(2))
    assert stats["preference_accuracy"].item() == 1
    assert (stats["reward_chosen"].item(), stats["reward_rejected"].item(), stats["responses"].item()) == (1, 1, 2)


def test_right_is_above_the_threshold_when_liked_and_below_when_disliked():
    logprobs, ref, feedback = tensors([0.5, 2.0, 3.0, 2.0, -1.0], [0.0] * 5, [1.0, 1.0, 0.3, -1.0, -0.5])

    def right(stats: dict) -> float:
        return stats["preference_accuracy"].item()

    # δ = 1: all but the first and the fourth; δ = 2: the second ties, as does the fourth.
    assert right(bco_loss(logprobs, ref, feedback, 1.0, 1.0, 5.0)[1]) == 3
    assert right(bco_loss(logprobs, ref, feedback, 2.0, 1.0, 5.0)[1]) == 0.5 + 1 + 0.5 + 1
    # KTO's rewards are compared with 0, wherever the reference point is.
    _, stats = kto_loss(logprobs, ref, feedback, 1.0, 2.0, 1.0, 1.0, 5.0)
    assert right(stats) == 4
    assert (stats["reward_chosen"].item(), stats["reward_rejected"].item()) == (11, 2)


def test_mpo_by_hand():
    # At the reference with δ = 0 every sigmoid is 1/2: log 2 for DPO, 2 log 2 for BCO.
    x = torch.tensor([-4.0], dtype=torch.float64)
    loss, stats = mpo_loss(x, x, x, x, x / 2, 0.0, 0.1, WEIGHTS, 1.0)
    assert loss.item() == pytest.approx(0.8 * math.log(2) + 0.2 * 2 * math.log(2) + 2.0)
    assert stats["bco_loss"].item() == pytest.approx(2 * math.log(2))
    assert stats["chosen_nll"].item() == 2


def test_margin_beta_by_hand():
    # 1 - e^(-2 * log 2 / 2) = 1/2.
    got = margin_beta(0.1, torch.tensor([0.0, math.log(2) / 2, 1e9], dtype=torch.float64), 0.6, 2.0)
    close(got, [0.1, 0.1 * 1.3, 0.1 * 1.6])


def test_reference_points_by_hand():
    assert kto_reference_kl(3.0, 4.0) == 0.75
    assert kto_reference_kl(-3.0, 4.0) == 0.0
    assert bco_delta(2.0, -1.0) == 0.5


def test_the_reference_gets_no_gradient():
    leaves = [x.requires_grad_() for x in tensors(*SUMS, MEAN_CHOSEN)]
    feedback = torch.tensor(FEEDBACK, dtype=torch.float64)
    total = dpo_loss(*leaves[:4], 0.1, 5.0)[0] + ipo_loss(*leaves[:4], 0.1, 5.0)[0]
    total = total + mpo_loss(*leaves, 0.1, 0.1, WEIGHTS, 5.0)[0]
    total = total + kto_loss(leaves[0], leaves[2], feedback, 0.1, 0.1, 1.0, 1.0, 5.0)[0]
    total = total + bco_loss(leaves[0], leaves[2], feedback, 0.1, 0.1, 5.0)[0]
    total.backward()
    assert leaves[2].grad is None
    assert leaves[3].grad is None
    assert leaves[0].grad.abs().min() > 0
