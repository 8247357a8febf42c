"""The formulas once more, in plain Python floats and loops, written from the papers and sharing no code."""

import math

Rows = list[list[float]]
Mask = list[list[bool]]


def kl(logprobs: Rows, ref: Rows, kind: str) -> Rows:
    out = []
    for p_row, q_row in zip(logprobs, ref, strict=True):
        row = []
        for p, q in zip(p_row, q_row, strict=True):
            r = math.exp(q) / math.exp(p)  # reference over policy
            row.append({"k1": -math.log(r), "k2": math.log(r) ** 2 / 2, "k3": (r - 1) - math.log(r)}[kind])
        out.append(row)
    return out


def token_rewards(scores: list[float], kl_rows: Rows, mask: Mask, kl_coef: float) -> Rows:
    out = []
    for score, kl_row, mask_row in zip(scores, kl_rows, mask, strict=True):
        row = [0.0] * len(kl_row)
        last = None
        for t, on in enumerate(mask_row):
            if on:
                row[t] = -kl_coef * kl_row[t]
                last = t
        assert last is not None
        row[last] += score
        out.append(row)
    return out


def gae(rewards: Rows, values: Rows, mask: Mask, gamma: float, lam: float) -> tuple[Rows, Rows]:
    """By the definition, a sum over all later steps, not by the backward recursion."""
    advantages, returns = [], []
    for r_row, v_row, m_row in zip(rewards, values, mask, strict=True):
        steps = [t for t, on in enumerate(m_row) if on]
        r = [r_row[t] for t in steps]
        v = [v_row[t] for t in steps] + [0.0]
        delta = [r[i] + gamma * v[i + 1] - v[i] for i in range(len(steps))]
        a_row, ret_row = [0.0] * len(r_row), [0.0] * len(r_row)
        for i, t in enumerate(steps):
            total = 0.0
            for j in range(i, len(steps)):
                total += (gamma * lam) ** (j - i) * delta[j]
            a_row[t] = total
            ret_row[t] = total + v_row[t]
        advantages.append(a_row)
        returns.append(ret_row)
    return advantages, returns


def whiten(x: Rows, mask: Mask, eps: float) -> Rows:
    kept = [value for row, on_row in zip(x, mask, strict=True) for value, on in zip(row, on_row, strict=True) if on]
    mean = sum(kept) / len(kept)
    variance = sum((value - mean) ** 2 for value in kept) / len(kept)
    return [
        [(value - mean) / math.sqrt(variance + eps) if on else 0.0 for value, on in zip(row, on_row, strict=True)]
        for row, on_row in zip(x, mask, strict=True)
    ]


def policy_loss(logprobs: Rows, old: Rows, advantages: Rows, mask: Mask, clip: float, denominator: float) -> float:
    total = 0.0
    for i, row in enumerate(mask):
        for t, on in enumerate(row):
            if not on:
                continue
            ratio = math.exp(logprobs[i][t]) / math.exp(old[i][t])
            a = advantages[i][t]
            near = min(max(ratio, 1 - clip), 1 + clip)
            total += min(ratio * a, near * a)  # the objective, which is maximised
    return -total / denominator


def value_loss(values: Rows, old: Rows, returns: Rows, mask: Mask, clip: float, denominator: float) -> float:
    total = 0.0
    for i, row in enumerate(mask):
        for t, on in enumerate(row):
            if not on:
                continue
            v, o, r = values[i][t], old[i][t], returns[i][t]
            near = min(max(v, o - clip), o + clip)
            total += max((v - r) ** 2, (near - r) ** 2) / 2
    return total / denominator


def bradley_terry(
    chosen: list[float],
    rejected: list[float],
    margin: list[float],
    smoothing: float,
    center: float,
    denominator: float,
) -> float:
    total = 0.0
    for c, r, m in zip(chosen, rejected, margin, strict=True):
        p = 1 / (1 + math.exp(-(c - r - m)))
        total += -(1 - smoothing) * math.log(p) - smoothing * math.log(1 - p) + center * (c + r) ** 2
    return total / denominator


def sft_loss(logprobs: Rows, mask: Mask, denominator: float) -> float:
    total = 0.0
    for row, on_row in zip(logprobs, mask, strict=True):
        for value, on in zip(row, on_row, strict=True):
            if on:
                total -= value
    return total / denominator


def distribution(logits: list[float], temperature: float, banned: list[int]) -> list[float]:
    weights = [0.0 if i in banned else math.exp(z / temperature) for i, z in enumerate(logits)]
    return [w / sum(weights) for w in weights]


def entropy(probabilities: list[float]) -> float:
    return -sum(p * math.log(p) for p in probabilities if p > 0)
