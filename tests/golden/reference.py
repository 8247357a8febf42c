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


def reinforce(rewards: Rows, mask: Mask, gamma: float) -> Rows:
    out = []
    for r_row, m_row in zip(rewards, mask, strict=True):
        steps = [t for t, on in enumerate(m_row) if on]
        row = [0.0] * len(r_row)
        for i, t in enumerate(steps):
            row[t] = sum(gamma**k * r_row[later] for k, later in enumerate(steps[i:]))
        out.append(row)
    return out


def outcomes(rewards: Rows, mask: Mask) -> list[float]:
    return [
        sum(r for r, on in zip(r_row, m_row, strict=True) if on) for r_row, m_row in zip(rewards, mask, strict=True)
    ]


def group_advantages(rewards: Rows, mask: Mask, groups: list[int], kind: str) -> Rows:
    """From the differences between each pair of a group, never from its mean."""
    result = outcomes(rewards, mask)
    out = []
    for i, m_row in enumerate(mask):
        mine = [j for j, g in enumerate(groups) if g == groups[i]]
        n = len(mine)
        lead = sum(result[i] - result[j] for j in mine)
        pairs = sum((result[j] - result[k]) ** 2 for j in mine for k in mine if j < k)
        if kind == "mean":
            advantage = lead / n
        elif kind == "others":
            advantage = lead / (n - 1)
        else:
            advantage = lead / n / (math.sqrt(pairs / (n * (n - 1))) + 1e-6)
        out.append([advantage if on else 0.0 for on in m_row])
    return out


def process_advantages(rows: Rows, groups: list[int]) -> Rows:
    """Of each turn: its reward and those after it, each in units of all turns of the group's rows."""
    out = []
    for own, group in zip(rows, groups, strict=True):
        every = [reward for row, g in zip(rows, groups, strict=True) if g == group for reward in row]
        n = len(every)
        pairs = sum((every[j] - every[k]) ** 2 for j in range(n) for k in range(j))
        deviation = math.sqrt(pairs / (n * (n - 1))) + 1e-6
        units = [sum(reward - other for other in every) / n / deviation for reward in own]
        out.append([sum(units[turn:]) for turn in range(len(own))])
    return out


def whiten(x: Rows, mask: Mask, mode: str, eps: float) -> Rows:
    kept = [value for row, on_row in zip(x, mask, strict=True) for value, on in zip(row, on_row, strict=True) if on]
    mean = sum(kept) / len(kept)
    variance = sum(value**2 for value in kept) / len(kept) - mean**2
    shift, scale = {"none": (0.0, 1.0), "center": (mean, 1.0), "full": (mean, math.sqrt(variance + eps))}[mode]
    return [
        [(value - shift) / scale if on else 0.0 for value, on in zip(row, on_row, strict=True)]
        for row, on_row in zip(x, mask, strict=True)
    ]


def token_weights(mask: Mask, aggregation: str) -> Rows:
    out = []
    for row in mask:
        n = sum(row)
        out.append([(1 / n if aggregation == "sequence_mean" else 1.0) if on else 0.0 for on in row])
    return out


def ratios(logprobs: Rows, old: Rows, mask: Mask, whole_response: bool) -> Rows:
    """Of probabilities: per token, or the geometric mean over the response."""
    out = []
    for p_row, q_row, m_row in zip(logprobs, old, mask, strict=True):
        row = [math.exp(p) / math.exp(q) if on else 1.0 for p, q, on in zip(p_row, q_row, m_row, strict=True)]
        if whole_response and any(m_row):
            row = [math.prod(row) ** (1 / sum(m_row))] * len(row)
        out.append(row)
    return out


def nearest(x: float, low: float | None, high: float | None) -> float:
    if low is not None and x < 1 - low:
        return 1 - low
    if high is not None and x > 1 + high:
        return 1 + high
    return x


Clips = tuple[float | None, float | None, float | None]


def policy_loss(
    kind: str,
    logprobs: Rows,
    old: Rows,
    advantages: Rows,
    mask: Mask,
    weights: Rows,
    clip: Clips,
    denominator: float,
) -> float:
    """The objective, which is maximised, with its sign turned at the end."""
    low, high, dual = clip
    rho = ratios(logprobs, old, mask, kind == "gspo")
    total = 0.0
    for i, row in enumerate(mask):
        for t, on in enumerate(row):
            if not on:
                continue
            a, near = advantages[i][t], nearest(rho[i][t], low, high)
            if kind == "cispo":
                gain = near * a * logprobs[i][t]
            else:
                gain = min(rho[i][t] * a, near * a)
                if dual is not None and a < 0:
                    gain = max(gain, dual * a)
            total += weights[i][t] * gain
    return -total / denominator


def weighted_mean(x: Rows, mask: Mask, weights: Rows, denominator: float) -> float:
    total = 0.0
    for x_row, w_row, m_row in zip(x, weights, mask, strict=True):
        total += sum(w * value for value, w, on in zip(x_row, w_row, m_row, strict=True) if on)
    return total / denominator


def mismatch_weights(old: Rows, rollout: Rows, mask: Mask, correction: str, low: float, high: float) -> Rows:
    out = []
    token, whole = ratios(old, rollout, mask, False), ratios(old, rollout, mask, True)
    for i, row in enumerate(mask):
        out.append([0.0] * len(row))
        for t, on in enumerate(row):
            if not on:
                continue
            r, s = token[i][t], whole[i][t]
            if correction == "none":
                out[i][t] = 1.0
            elif correction == "tis":
                out[i][t] = high if r > high else r
            elif correction == "icepop":
                out[i][t] = 0.0 if r < low or r > high else r
            else:
                out[i][t] = 0.0 if s < low or s > high else 1.0
    return out


def overlong(length: int, longest: int, buffer: int, penalty: float) -> float:
    start = longest - buffer
    if length <= start:
        return 0.0
    return penalty * (start - length) / buffer if length <= longest else -penalty


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


def divergence(policy: list[float], teacher: list[float], kind: str, top_k: int | None) -> float:
    """KL(teacher ‖ policy), `forward`, or KL(policy ‖ teacher), `reverse`, of two distributions; over the teacher's
    `top_k` likeliest tokens and the rest as one."""
    if top_k is not None:
        likeliest = sorted(range(len(teacher)), key=lambda token: -teacher[token])[:top_k]
        policy, teacher = (
            [p[token] for token in likeliest] + [sum(x for token, x in enumerate(p) if token not in likeliest)]
            for p in (policy, teacher)
        )
    p, q = (teacher, policy) if kind == "forward" else (policy, teacher)
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)
