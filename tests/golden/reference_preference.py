"""The preference, feedback and reward-model losses once more, in plain Python floats and loops, sharing no code."""

import math
from itertools import permutations

Row = list[float]


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def dpo(c: Row, r: Row, ref_c: Row, ref_r: Row, beta: Row, smoothing: float, denominator: float) -> float:
    """By probabilities: p(chosen preferred) is (π_c/ref_c)^β / ((π_c/ref_c)^β + (π_r/ref_r)^β)."""
    total = 0.0
    for i in range(len(c)):
        liked = (math.exp(c[i]) / math.exp(ref_c[i])) ** beta[i]
        disliked = (math.exp(r[i]) / math.exp(ref_r[i])) ** beta[i]
        p = liked / (liked + disliked)
        total -= (1 - smoothing) * math.log(p) + smoothing * math.log(1 - p)
    return total / denominator


def ipo(c: Row, r: Row, ref_c: Row, ref_r: Row, beta: float, denominator: float) -> float:
    total = 0.0
    for i in range(len(c)):
        ratio = (math.exp(c[i]) * math.exp(ref_r[i])) / (math.exp(r[i]) * math.exp(ref_c[i]))
        total += (math.log(ratio) - 0.5 / beta) ** 2
    return total / denominator


def kto(
    logp: Row, ref: Row, feedback: Row, z0: float, beta: float, liked_w: float, disliked_w: float, denominator: float
) -> float:
    """λ_y − v(x, y), where v is the value of the outcome as people see it."""
    total = 0.0
    for lp, q, f in zip(logp, ref, feedback, strict=True):
        r = math.log(math.exp(lp) / math.exp(q))
        if f > 0:
            total += f * (liked_w - liked_w * _sigmoid(beta * (r - z0)))
        elif f < 0:
            total += -f * (disliked_w - disliked_w * _sigmoid(beta * (z0 - r)))
    return total / denominator


def orpo(c: Row, r: Row, beta: float, denominator: float) -> float:
    total = 0.0
    for lc, lr in zip(c, r, strict=True):
        odds_c = math.exp(lc) / (1 - math.exp(lc))
        odds_r = math.exp(lr) / (1 - math.exp(lr))
        total += -lc - beta * math.log(odds_c / (odds_c + odds_r))  # σ(log a/b) = a / (a + b)
    return total / denominator


def simpo(c: Row, r: Row, beta: float, margin: float, denominator: float) -> float:
    return sum(math.log(1 + math.exp(margin + beta * (lr - lc))) for lc, lr in zip(c, r, strict=True)) / denominator


def bco(logp: Row, ref: Row, feedback: Row, delta: float, beta: float, denominator: float) -> float:
    """Cross-entropy of a classifier that tells liked from disliked responses by their reward."""
    total = 0.0
    for lp, q, f in zip(logp, ref, feedback, strict=True):
        p_liked = _sigmoid(beta * (lp - q) - delta)
        if f > 0:
            total -= f * math.log(p_liked)
        elif f < 0:
            total -= -f * math.log(1 - p_liked)
    return total / denominator


def mpo(
    c: Row, r: Row, ref_c: Row, ref_r: Row, mean: Row, delta: float, beta: float, weights: Row, denominator: float
) -> float:
    total = weights[0] * dpo(c, r, ref_c, ref_r, [beta] * len(c), 0.0, denominator)
    total += weights[1] * bco(c, ref_c, [1.0] * len(c), delta, beta, denominator)
    total += weights[1] * bco(r, ref_r, [-1.0] * len(r), delta, beta, denominator)
    return total - weights[2] * sum(mean) / denominator


def margin_beta(beta: float, margin: Row, scale: float, rate: float) -> Row:
    return [beta + beta * scale * (1 - 1 / math.exp(rate * m)) for m in margin]


def segment(logprobs: Row, changed: list[bool], weight: float) -> float:
    common = [x for x, on in zip(logprobs, changed, strict=True) if not on]
    differing = [x for x, on in zip(logprobs, changed, strict=True) if on]
    return (sum(common) + weight * sum(differing)) / (len(common) + weight * len(differing))


def feedback(logprobs: list[Row], mask: list[list[bool]], h: Row, denominator: float) -> float:
    total = 0.0
    for row, on_row, f in zip(logprobs, mask, h, strict=True):
        if f:
            total += f * sum(x for x, on in zip(row, on_row, strict=True) if on)
    return -total / denominator


def plackett_luce(rankings: list[list[tuple[float, int, float]]], denominator: float) -> float:
    """Rankings of (score, rank, weight): choose the best of what is left, one after the other."""
    total = 0.0
    for ranking in rankings:
        for score, rank, weight in ranking:
            left = [math.exp(score)] + [math.exp(s) for s, other, _ in ranking if other > rank]
            total -= weight * math.log(math.exp(score) / sum(left))
    return total / denominator


def plackett_luce_probability(scores: Row, order: tuple[int, ...]) -> float:
    """Of the order best to worst, as a product over draws without replacement."""
    p = 1.0
    for k, i in enumerate(order):
        p *= math.exp(scores[i]) / sum(math.exp(scores[j]) for j in order[k:])
    return p


def orders(n: int) -> list[tuple[int, ...]]:
    return list(permutations(range(n)))


def rating(scores: list[Row], ratings: list[Row], weights: Row, denominator: float) -> float:
    total = 0.0
    for s_row, r_row, w in zip(scores, ratings, weights, strict=True):
        for s, r in zip(s_row, r_row, strict=True):
            if not math.isnan(r):
                total += w * (s - r) ** 2 / 2
    return total / denominator


def weighted_bradley_terry(chosen: Row, rejected: Row, weights: Row, denominator: float) -> float:
    return (
        sum(w * math.log(1 + math.exp(r - c)) for c, r, w in zip(chosen, rejected, weights, strict=True)) / denominator
    )


def language(responses: list[Row], preferred: list[bool], denominator: float) -> float:
    """By probabilities: minus the log of the product of those of all preferred tokens."""
    product = 1.0
    for row, wanted in zip(responses, preferred, strict=True):
        for logprob in row:
            product *= math.exp(logprob) if wanted else 1.0
    return -math.log(product) / denominator
