"""Divergences from teachers, against the sums written out."""

import math

import pytest
import torch

from mmrlhf_ray.algorithms import distillation
from mmrlhf_ray.algorithms.distillation import distillation_loss, teacher_kl, teacher_numbers
from tests.golden import reference
from tests.golden.support import assert_caught, batch, close

N, V = 9, 13
BANNED = [2, 11]
CASES = [(kind, top_k) for kind in ("forward", "reverse") for top_k in (None, 1, 4, V - len(BANNED) - 1)]


def logits(seed):
    return torch.randn(N, V, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2.0


def check_divergence(kl):
    own, teacher, banned = logits(1), logits(2), torch.tensor(BANNED)
    for kind, top_k in CASES:
        for temperature in (1.0, 0.7):
            want = []
            for mine, its in zip(own.tolist(), teacher.tolist(), strict=True):
                p, q = (reference.distribution(x, temperature, BANNED) for x in (mine, its))
                want.append(reference.divergence(p, q, kind, top_k))
            numbers = teacher_numbers(teacher, top_k, temperature, banned, rows=4)
            close(kl(own, numbers, kind, top_k, temperature, banned, 4), torch.tensor(want, dtype=torch.float64))


def test_matches_the_reference():
    check_divergence(teacher_kl)


def test_exchanged_sides_are_caught():
    other = {"forward": "reverse", "reverse": "forward"}
    assert_caught(check_divergence, lambda own, numbers, kind, *rest: teacher_kl(own, numbers, other[kind], *rest))


def test_a_forgotten_rest_is_caught(monkeypatch):
    """Without the tail the sum is no divergence, and may be negative."""

    def without(logits, teacher, divergence, top_k, temperature, banned):
        if top_k is None:
            return whole(logits, teacher, divergence, top_k, temperature, banned)
        ids = teacher[:, :top_k].long()
        log_p = logits.div(temperature).index_fill(1, banned, -torch.inf).log_softmax(1).gather(1, ids)
        log_q = teacher[:, top_k:-1]
        a, b = (log_q, log_p) if divergence == "forward" else (log_p, log_q)
        return (a.exp() * (a - b)).sum(1)

    whole = distillation._kl_of_rows
    monkeypatch.setattr(distillation, "_kl_of_rows", without)
    assert_caught(check_divergence, teacher_kl)


def test_by_hand():
    # p = (1/2, 1/4, 1/4), q = (1/4, 1/2, 1/4).
    own, teacher = torch.tensor([[2.0, 1.0, 1.0]]), torch.tensor([[1.0, 2.0, 1.0]])
    own, teacher = own * math.log(2), teacher * math.log(2)
    for kind in ("forward", "reverse"):
        whole = teacher_kl(own, teacher_numbers(teacher, None), kind, None)
        assert whole.item() == pytest.approx(math.log(2) / 4)
    # The teacher's likeliest token has q = 1/2 and p = 1/4; the rest q = 1/2 and p = 3/4.
    numbers = teacher_numbers(teacher, 1)
    assert numbers[0].tolist() == pytest.approx([1.0, math.log(0.5), math.log(0.5)])
    forward = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    assert teacher_kl(own, numbers, "forward", 1).item() == pytest.approx(forward)
    reverse = 0.25 * math.log(1 / 2) + 0.75 * math.log(3 / 2)
    assert teacher_kl(own, numbers, "reverse", 1).item() == pytest.approx(reverse)


def test_it_is_zero_at_the_teacher_and_never_more_than_over_the_vocabulary():
    own, teacher = logits(3), logits(4)
    for kind in ("forward", "reverse"):
        whole = teacher_kl(own, teacher_numbers(teacher, None), kind, None)
        before = torch.zeros(N, dtype=torch.float64)
        for top_k in (1, 3, 6, 12):
            part = teacher_kl(own, teacher_numbers(teacher, top_k), kind, top_k)
            assert (part >= before - 1e-12).all()
            assert (part <= whole + 1e-12).all()
            before = part
            close(teacher_kl(teacher, teacher_numbers(teacher, top_k), kind, top_k), torch.zeros(N).double())


@pytest.mark.parametrize(("kind", "top_k"), CASES)
def test_gradients_match_finite_differences_and_reach_the_policy_alone(kind, top_k):
    own, teacher = logits(5)[:3].requires_grad_(), logits(6)[:3].requires_grad_()
    banned = torch.tensor(BANNED)
    numbers = teacher_numbers(teacher.detach(), top_k, 0.8, banned)
    assert torch.autograd.gradcheck(lambda x: teacher_kl(x, numbers, kind, top_k, 0.8, banned, 2), (own,))
    teacher_kl(own, numbers, kind, top_k, 0.8, banned, 2).sum().backward()
    assert (own.grad[:, BANNED] == 0).all()
    assert own.grad.abs().sum() > 0


def test_a_step_against_the_gradient_brings_the_policy_to_its_teacher():
    for kind, top_k in CASES:
        own, teacher = logits(7).requires_grad_(), logits(8)
        numbers = teacher_numbers(teacher, top_k)
        optimizer = torch.optim.Adam([own], lr=0.1)
        for _ in range(300):
            optimizer.zero_grad()
            loss = teacher_kl(own, numbers, kind, top_k).mean()
            loss.backward()
            optimizer.step()
        assert loss.item() < 1e-3, (kind, top_k)


def test_certain_teachers_and_policies_give_finite_losses():
    own, teacher = torch.zeros(2, 5), torch.zeros(2, 5)
    teacher[0, 1] = own[1, 2] = 1e6
    for kind in ("forward", "reverse"):
        for top_k in (None, 2):
            leaf = own.clone().requires_grad_()
            kl = teacher_kl(leaf, teacher_numbers(teacher, top_k), kind, top_k)
            kl.sum().backward()
            assert torch.isfinite(kl).all()
            assert torch.isfinite(leaf.grad).all()


@pytest.mark.parametrize("top_k", [None, 4])
def test_no_more_rows_than_a_chunk_are_in_full_precision_at_a_time(monkeypatch, top_k):
    """Of bfloat16 logits, forward and backward."""
    sizes, whole = [], distillation.scaled_logits

    def noting(part, temperature, banned):
        sizes.append(len(part))
        return whole(part, temperature, banned)

    monkeypatch.setattr(distillation, "scaled_logits", noting)
    own = logits(1).to(torch.bfloat16).requires_grad_()
    numbers = teacher_numbers(logits(2).to(torch.bfloat16), top_k, rows=4)
    assert numbers.dtype == torch.float32
    kl = teacher_kl(own, numbers, "reverse", top_k, rows=4)
    kl.sum().backward()
    assert sizes[:6] == [4, 4, 1] * 2, "the teacher's, the policy's"
    assert len(sizes) == 9, "each chunk is computed again in the backward pass"
    assert max(sizes) == 4


def test_ids_survive_as_floats():
    wide = torch.zeros(1, 200_000)
    wide[0, 199_999], wide[0, 131_073] = 3.0, 2.0
    assert teacher_numbers(wide, 2)[0, :2].tolist() == [199_999.0, 131_073.0]


def test_loss_is_a_weighted_sum_over_the_mask():
    b = batch()
    kl = torch.where(b.mask, b.logprobs.abs(), torch.full_like(b.logprobs, torch.nan))
    weights = torch.full_like(kl, 0.5)
    loss, stats = distillation_loss(kl, b.mask, weights, b.tokens)
    want = reference.weighted_mean(b.logprobs.abs().tolist(), b.mask.tolist(), weights.tolist(), b.tokens)
    assert loss.item() == pytest.approx(want)
    assert stats["distillation_loss"].item() == pytest.approx(want * b.tokens)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: teacher_numbers(logits(1), V), f"top_k expects fewer than the {V} tokens"),
        (lambda: teacher_numbers(logits(1), V - 2, 1.0, torch.tensor(BANNED)), "fewer than the 11 tokens"),
        (lambda: teacher_kl(logits(1), logits(1)[:3], "forward", None), "teacher expects 9 rows"),
        (lambda: teacher_kl(logits(1), logits(1), "forward", 3), "teacher expects 7 numbers a token, got 13"),
    ],
)
def test_wrong_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
