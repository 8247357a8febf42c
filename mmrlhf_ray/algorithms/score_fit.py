"""What is fitted to a reward model's scores after training: the part that form explains, and each task's scale."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

_GRAM = 3
_LARGEST = 20.0
"""Of a temperature, and one over the smallest."""
_STEPS = 60


def log_length(token_ids: Sequence[int]) -> float:
    """ln(1 + n) of a response of n tokens."""
    return math.log1p(len(token_ids))


def repetition(token_ids: Sequence[int]) -> float:
    """Share of the runs of three tokens that are repetitions, 1 − different ones / all; 0 for up to three tokens.

    The measure of Yeo et al. 2025, "Demystifying Long Chain-of-Thought Reasoning in LLMs", section 4.
    """
    grams = [tuple(token_ids[i : i + _GRAM]) for i in range(len(token_ids) - _GRAM + 1)]
    return 1.0 - len(set(grams)) / len(grams) if grams else 0.0


FORM: Mapping[str, Callable[[Sequence[int]], float]] = {"length": log_length, "repetition": repetition}
"""Name of a measure of form, as `debias` has it → its value for a response's tokens."""


def form_coefficients(
    scores: NDArray[np.float64], form: NDArray[np.float64], rows: NDArray[np.int64]
) -> NDArray[np.float64]:
    """How much of the scores [N] each measure of form [N, F] explains: β [F] of the least-squares fit of score − mean
    of its row to form − mean of its row; rows [N] says which responses answer one prompt.

    Only responses to one prompt are compared, so that prompts with long answers and high scores add nothing. A
    measure that never differs within a row gets 0, of measures that move together each gets its part of the smallest β.
    Source: the linear form of the residuals in Huang et al. 2024, "Post-hoc Reward Calibration: A Case Study on Length
    Bias", within prompts as in a regression with fixed effects (Frisch & Waugh 1933).

    Raises ValueError where shapes differ.
    """
    if form.ndim != 2 or scores.shape != form.shape[:1] or rows.shape != scores.shape:
        shapes = f"{list(scores.shape)}, {list(form.shape)}, {list(rows.shape)}"
        raise ValueError(f"scores, form and rows expect shapes [N], [N, F], [N], got {shapes}")
    _, numbers = np.unique(rows, return_inverse=True)
    counts = np.bincount(numbers)
    means = [np.bincount(numbers, column) / counts for column in form.T]
    within = form - np.stack([mean[numbers] for mean in means], axis=1)
    # Scores need not lose their rows' means, to which what differs within rows is orthogonal.
    return np.asarray(np.linalg.lstsq(within, scores, rcond=1e-10)[0], np.float64)


def temperature(differences: NDArray[np.float64]) -> float:
    """T > 0 that minimises Σ −log σ(d / T) over pairs [P], d = preferred score − other, to within [1/20, 20].

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2. The sum is convex in 1/T, whose
    zero of the gradient is found by bisection; where all pairs are right, or most are wrong, it lies beyond an end, and
    that end is returned. Raises ValueError without any pair.
    """
    if not len(differences):
        raise ValueError("differences expects one pair or more, got none")
    low, high = 1.0 / _LARGEST, _LARGEST
    for _ in range(_STEPS):
        middle = 0.5 * (low + high)
        # d/da of Σ −log σ(a·d); a beyond the minimum makes it positive.
        if float((-differences * _sigmoid(-middle * differences)).sum()) > 0.0:
            high = middle
        else:
            low = middle
    return 2.0 / (low + high)


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    below = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, below) / (1.0 + below)
