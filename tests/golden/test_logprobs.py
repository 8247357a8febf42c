"""Token log-probabilities and entropy against the float64 reference."""

import math

import pytest
import torch

from mmrlhf_ray.algorithms import logprobs as module
from mmrlhf_ray.algorithms.logprobs import token_logprobs, token_logprobs_and_entropy
from tests.golden import reference
from tests.golden.support import assert_caught, close, mutant

BANNED = [0, 7]


def _inputs():
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(11, 9, generator=generator, dtype=torch.float64) * 2
    token_ids = torch.tensor([1, 2, 3, 4, 5, 6, 8, 1, 2, 3, 4])
    return logits, token_ids


def check_logprobs(function):
    logits, token_ids = _inputs()
    for temperature, banned in ((1.0, []), (0.7, BANNED)):
        ids = torch.tensor(banned, dtype=torch.long) if banned else None
        got = function(logits, token_ids, temperature, ids, rows=4)
        want = [
            math.log(reference.distribution(row, temperature, banned)[token])
            for row, token in zip(logits.tolist(), token_ids.tolist(), strict=True)
        ]
        close(got, want)


def test_logprobs_match_the_reference():
    check_logprobs(token_logprobs)
    check_logprobs(lambda *args, **kw: token_logprobs_and_entropy(*args, **kw)[0])


@pytest.mark.parametrize(
    ("inner", "old", "new"),
    [
        ("scaled_logits", "/ temperature", "* temperature"),
        ("scaled_logits", "scaled.index_fill_(1, banned, -torch.inf)", "scaled"),
        ("scaled_logits", "index_fill_(1, banned,", "index_fill_(1, banned + 1,"),
        ("_logprobs_of_rows", "- scaled.logsumexp", "+ scaled.logsumexp"),
        ("_logprobs_of_rows", "token_ids[:, None]", "token_ids.roll(1)[:, None]"),
    ],
)
def test_broken_logprobs_are_caught(monkeypatch, inner, old, new):
    monkeypatch.setattr(module, inner, mutant(getattr(module, inner), old, new))
    assert_caught(check_logprobs, token_logprobs)


def test_entropy_matches_the_reference():
    logits, token_ids = _inputs()
    for temperature, banned in ((1.0, []), (0.7, BANNED)):
        ids = torch.tensor(banned, dtype=torch.long) if banned else None
        _, entropy = token_logprobs_and_entropy(logits, token_ids, temperature, ids, rows=4)
        want = [reference.entropy(reference.distribution(row, temperature, banned)) for row in logits.tolist()]
        close(entropy, want)


def test_entropy_of_a_uniform_distribution_is_log_of_its_size():
    _, entropy = token_logprobs_and_entropy(torch.zeros(1, 9), torch.tensor([1]), 1.0, torch.tensor(BANNED))
    assert entropy.item() == pytest.approx(math.log(7))


def test_a_banned_token_has_probability_zero():
    got = token_logprobs(torch.zeros(2, 9), torch.tensor([0, 1]), 1.0, torch.tensor(BANNED))
    assert got.tolist() == pytest.approx([-math.inf, -math.log(7)])


@pytest.mark.parametrize("rows", [1, 4, 100])
def test_the_gradient_is_that_of_log_softmax_however_the_rows_are_cut(rows):
    logits, token_ids = _inputs()
    ours = logits.clone().requires_grad_()
    logp, entropy = token_logprobs_and_entropy(ours, token_ids, 0.7, torch.tensor(BANNED), rows=rows)
    (logp.sum() + 0.3 * entropy.sum()).backward()

    theirs = logits.clone().requires_grad_()
    allowed = [i for i in range(9) if i not in BANNED]
    full = torch.log_softmax(theirs[:, allowed] / 0.7, dim=1)
    index = torch.tensor([allowed.index(t) for t in token_ids.tolist()])
    want = full.gather(1, index[:, None]).sum() - 0.3 * (full.exp() * full).sum()
    want.backward()
    close(ours.grad, theirs.grad)


def test_half_precision_logits_are_computed_in_float32():
    logits = torch.tensor([[8.0, 8.03125, -3.0]], dtype=torch.bfloat16)
    got = token_logprobs(logits, torch.tensor([1]))
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, torch.log_softmax(logits.float(), 1)[:, 1])
