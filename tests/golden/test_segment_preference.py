"""The loss of votes on segments against its formula in float64, and by hand."""

import math

import pytest
import torch

from mmrlhf_ray.algorithms.segment_preference import segment_preference_loss


def formula(first: list[list[float]], second: list[list[float]], preferred: list[float], noise: float) -> float:
    """Christiano et al. 2017, section 2.2.3, in the words of its page: the sums' softmax, mixed with a fair coin."""
    total = 0.0
    for a, b, mu in zip(first, second, preferred, strict=True):
        better = math.exp(sum(a)) / (math.exp(sum(a)) + math.exp(sum(b)))
        p = (1 - noise) * better + noise * 0.5
        total -= mu * math.log(p) + (1 - mu) * math.log(1 - p)
    return total


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.5])
def test_the_loss_is_the_formula(noise: float) -> None:
    generator = torch.Generator().manual_seed(3)
    first, second = torch.randn(2, 6, 4, generator=generator, dtype=torch.float64)
    preferred = torch.tensor([1.0, 0.0, 0.5, 1.0, 0.0, 1.0], dtype=torch.float64)
    said = segment_preference_loss(first, second, preferred, noise, 2.0)
    assert float(said) == pytest.approx(
        formula(first.tolist(), second.tolist(), preferred.tolist(), noise) / 2, abs=1e-6
    )


def test_by_hand() -> None:
    # Sums 2 and 0; σ(2) = 0.880797, mixed with a tenth of a coin: 0.842717.
    first, second = torch.tensor([[1.0, 1.0]]), torch.tensor([[0.5, -0.5]])
    assert float(segment_preference_loss(first, second, torch.tensor([1.0]), 0.1, 1.0)) == pytest.approx(
        0.171124, abs=1e-5
    )
    assert float(segment_preference_loss(first, second, torch.tensor([0.0]), 0.1, 1.0)) == pytest.approx(
        1.849708, abs=1e-5
    )


def test_a_vote_that_must_be_wrong_costs_no_more_than_noise_allows() -> None:
    far = torch.full((1, 5), 100.0, requires_grad=True)
    loss = segment_preference_loss(far, -far, torch.tensor([0.0]), 0.1, 1.0)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(-math.log(0.05))
    assert far.grad is not None
    assert torch.isfinite(far.grad).all()


def test_weights_are_votes_counted_so_often() -> None:
    first, second = torch.randn(2, 3, 4)
    preferred, weights = torch.tensor([1.0, 0.0, 1.0]), torch.tensor([2.0, 0.0, 1.0])
    rows = [0, 0, 2]
    assert segment_preference_loss(first, second, preferred, 0.1, 3.0, weights) == pytest.approx(
        float(segment_preference_loss(first[rows], second[rows], preferred[rows], 0.1, 3.0))
    )


@pytest.mark.parametrize(
    ("shapes", "noise", "message"),
    [
        (((2, 3), (2, 4), (2,)), 0.1, "one shape"),
        (((2, 3), (2, 3), (3,)), 0.1, "preferred"),
        (((2, 3), (2, 3), (2,)), 1.0, "noise"),
    ],
)
def test_what_does_not_fit_is_refused(shapes: tuple[tuple[int, ...], ...], noise: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        segment_preference_loss(*(torch.zeros(shape) for shape in shapes), noise, 1.0)
