"""Every preference objective against its formula written out with plain numbers."""

import math
from collections.abc import Callable, Mapping

import pyarrow as pa
import pytest
import torch
from torch import Tensor

from mmrlhf_ray.config import PreferenceConfig
from mmrlhf_ray.data.encoding.encode import Encoder
from mmrlhf_ray.training.preference_tasks import OBJECTIVES, PreferenceTask
from tests.unit.training.rows import batch_of, logits_for, read_by, row_table, tokens_by_hand

BETA = 0.3
# Lengths differ within pairs, and the second pair shares its first and last tokens.
PAIRS = [[[20, 21, 22], [23]], [[24, 20, 23], [24, 21, 22, 23]]]
REF = [[[-3.0, -2.5, -2.0], [-1.0]], [[-2.0, -3.5, -2.2], [-2.1, -3.0, -4.0, -2.4]]]
MARGINS = [0.5, 2.0]
OTHERS = [[23, 24], [20]]
OTHERS_REF = [[-4.0, -3.0], [-5.0]]


def task(objective: str, **options: object) -> PreferenceTask:
    common = {"name": "n", "steps": 1, "model": {"path": "m"}, "data": {"path": "d"}}
    return PreferenceTask(PreferenceConfig(objective=objective, **(common | {"beta": BETA} | options)))


def pairs() -> pa.Table:
    return row_table(*PAIRS, feedback=[[1.0, -1.0]] * 2, ref_logprobs=REF, margin=MARGINS)


def with_others() -> pa.Table:
    """Each pair with a response of another prompt at its end."""
    responses = [[*pair, other] for pair, other in zip(PAIRS, OTHERS, strict=True)]
    ref = [[*pair, other] for pair, other in zip(REF, OTHERS_REF, strict=True)]
    return row_table(*responses, feedback=[[1.0, -1.0, 0.0]] * 2, ref_logprobs=ref)


def measure(chosen: PreferenceTask, encoder: Encoder, rows: pa.Table, logits: Callable[[pa.Table], Tensor]):
    """(what is learnt from, the reference point's sums) as the worker gets them."""
    point = chosen.reference_point
    if point is None:
        return rows, {}
    measured = point.measured(rows)
    read = read_by(chosen, encoder, logits(measured), measured)
    sums = point.sums(encoder)(read, batch_of(measured), measured)
    return point.trained(rows), {k: float(v) for k, v in sums.items()}


def run(chosen: PreferenceTask, encoder: Encoder, rows: pa.Table) -> tuple[float, dict[str, float], list[float]]:
    """(loss, metrics, log p of each trained response) where this is the whole batch."""

    def logits(table: pa.Table) -> Tensor:
        return logits_for(encoder, table)

    trained, measured = measure(chosen, encoder, rows, logits)
    values = logits(trained).requires_grad_()
    read = read_by(chosen, encoder, values, trained)
    loss, stats = chosen.loss(encoder, chosen.weights(trained), measured)(read, batch_of(trained), trained)
    loss.backward()
    assert values.grad is not None
    assert values.grad.isfinite().all()
    assert values.grad.any(dim=1).all(), "every response token is learnt from"
    assert not any(value.requires_grad for value in stats.values())
    by_hand = [sum(tokens) for tokens in tokens_by_hand(encoder, values.detach(), trained)]
    return float(loss.detach()), chosen.metrics({k: float(v) for k, v in stats.items()}), by_hand


def sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x))


REF_SUMS = [sum(tokens) for pair in REF for tokens in pair]
LENGTHS = [len(tokens) for pair in PAIRS for tokens in pair]


def ratios(policy: list[float]) -> list[float]:
    return [p - r for p, r in zip(policy, REF_SUMS, strict=True)]


def dpo(policy: list[float]) -> float:
    r = ratios(policy)
    return sum(-math.log(sigmoid(BETA * (r[i] - r[i + 1]))) for i in (0, 2)) / 2


def cdpo(policy: list[float]) -> float:
    r = ratios(policy)
    differences = [BETA * (r[i] - r[i + 1]) for i in (0, 2)]
    return sum(-0.9 * math.log(sigmoid(d)) - 0.1 * math.log(sigmoid(-d)) for d in differences) / 2


def dpo_with_margins(policy: list[float]) -> float:
    r = ratios(policy)
    betas = [BETA * (1 + 2.0 * (1 - math.exp(-0.7 * margin))) for margin in MARGINS]
    return sum(-math.log(sigmoid(b * (r[i] - r[i + 1]))) for b, i in zip(betas, (0, 2), strict=True)) / 2


def nll(policy: list[float]) -> float:
    return -sum(policy[i] / LENGTHS[i] for i in (0, 2)) / 2


def ipo(policy: list[float]) -> float:
    r = [ratio / n for ratio, n in zip(ratios(policy), LENGTHS, strict=True)]
    return sum((r[i] - r[i + 1] - 1 / (2 * BETA)) ** 2 for i in (0, 2)) / 2


def simpo(policy: list[float]) -> float:
    m = [p / n for p, n in zip(policy, LENGTHS, strict=True)]
    return sum(-math.log(sigmoid(BETA * (m[i] - m[i + 1]) - 0.2)) for i in (0, 2)) / 2


def orpo(policy: list[float]) -> float:
    m = [p / n for p, n in zip(policy, LENGTHS, strict=True)]
    odds = [math.exp(v) / (1 - math.exp(v)) for v in m]
    return sum(-m[i] - BETA * math.log(sigmoid(math.log(odds[i] / odds[i + 1]))) for i in (0, 2)) / 2


def bco(policy: list[float]) -> float:
    r = [BETA * ratio for ratio in ratios(policy)]
    delta = ((r[0] + r[2]) / 2 + (r[1] + r[3]) / 2) / 2
    return sum(-math.log(sigmoid(sign * (x - delta))) for x, sign in zip(r, (1, -1, 1, -1), strict=True)) / 4


def mpo(policy: list[float]) -> float:
    return 0.5 * dpo(policy) + 0.3 * 2 * bco(policy) + 0.7 * nll(policy)  # BCO of a pair sums over its two responses


@pytest.mark.parametrize(
    ("objective", "options", "formula"),
    [
        ("dpo", {}, dpo),
        ("dpo", {"label_smoothing": 0.1}, cdpo),
        ("dpo", {"margin_scale": 2.0, "margin_rate": 0.7}, dpo_with_margins),
        ("dpo", {"sft_coef": 0.4}, lambda p: dpo(p) + 0.4 * nll(p)),
        ("ipo", {"sft_coef": 0.4}, lambda p: ipo(p) + 0.4 * nll(p)),
        ("ipo", {}, ipo),
        ("simpo", {"simpo_margin": 0.2}, simpo),
        ("simpo", {"simpo_margin": 0.2, "sft_coef": 0.4}, lambda p: simpo(p) + 0.4 * nll(p)),
        ("orpo", {}, orpo),
        ("bco", {}, bco),
        ("mpo", {"mpo_weights": (0.5, 0.3, 0.7)}, mpo),
    ],
)
def test_pairs(
    omni_encoder: Encoder, objective: str, options: Mapping[str, object], formula: Callable[[list[float]], float]
) -> None:
    loss, metrics, policy = run(task(objective, **options), omni_encoder, pairs())
    assert loss == pytest.approx(formula(policy), rel=1e-5)
    assert metrics["loss"] == pytest.approx(loss, rel=1e-5)
    assert metrics["reward_margin"] == pytest.approx(metrics["reward_chosen"] - metrics["reward_rejected"])
    if OBJECTIVES[objective].has_reference:
        r = ratios(policy)
        assert metrics["log_ratio_chosen"] == pytest.approx((r[0] + r[2]) / 2, rel=1e-4)
        assert metrics["log_ratio_rejected"] == pytest.approx((r[1] + r[3]) / 2, rel=1e-4)


@pytest.mark.parametrize(
    ("marked", "changed"),
    [
        ([[], []], [[1, 1, 1], [1], [0, 1, 0], [0, 1, 1, 0]]),
        ([[], [[False] * 3, [True, False, False, False]]], [[1, 1, 1], [1], [0, 1, 0], [1, 1, 1, 0]]),
    ],
)
def test_changed_and_marked_tokens_weigh_more(
    omni_encoder: Encoder, marked: list[list[list[bool]]], changed: list[list[int]]
) -> None:
    rows = row_table(*PAIRS, feedback=[[1.0, -1.0]] * 2, ref_logprobs=REF, margin=MARGINS, marked=marked)
    loss, _, _ = run(task("dpo", changed_token_weight=3.0), omni_encoder, rows)
    policy = tokens_by_hand(omni_encoder, logits_for(omni_encoder, rows), rows)
    weights = [[3.0 if c else 1.0 for c in flags] for flags in changed]

    def weighted(tokens: list[list[float]]) -> list[float]:
        return [
            sum(w * t for w, t in zip(ws, ts, strict=True)) / sum(ws) for ws, ts in zip(weights, tokens, strict=True)
        ]

    ref = weighted([tokens for pair in REF for tokens in pair])
    r = [p - q for p, q in zip(weighted(policy), ref, strict=True)]
    want = sum(-math.log(sigmoid(BETA * (r[i] - r[i + 1]))) for i in (0, 2)) / 2
    assert loss == pytest.approx(want, rel=1e-5)


def test_kto_takes_its_reference_point_from_the_other_prompts_responses(omni_encoder: Encoder) -> None:
    rows = with_others()
    chosen = task("kto", desirable_weight=1.5, undesirable_weight=0.5)
    point = chosen.reference_point
    assert point is not None
    assert point.measured(rows).column("responses_token_ids").to_pylist() == [[OTHERS[0]], [OTHERS[1]]]
    assert point.trained(rows).column("responses_token_ids").to_pylist() == PAIRS
    assert chosen.weights(point.trained(rows)) == {"responses": 4}
    measured = tokens_by_hand(omni_encoder, logits_for(omni_encoder, point.measured(rows)), point.measured(rows))
    z0 = (sum(map(sum, measured)) - sum(map(sum, OTHERS_REF))) / 2
    for shift in (10.0, -10.0):
        shifted = [[tokens if i < 2 else [t + shift for t in tokens] for i, tokens in enumerate(row)]
                   for row in rows.column("ref_logprobs").to_pylist()]  # fmt: skip
        field = rows.schema.field("ref_logprobs")
        table = rows.set_column(rows.schema.get_field_index(field.name), field, pa.array(shifted, field.type))
        kl = max(0.0, z0 - shift * 3 / 2)  # three tokens in two responses
        assert (kl > 0) is (shift < 0)
        loss, metrics, policy = run(chosen, omni_encoder, table)
        v = [BETA * (ratio - kl) for ratio in ratios(policy)]
        want = (1.5 * (2 - sigmoid(v[0]) - sigmoid(v[2])) + 0.5 * (2 - sigmoid(-v[1]) - sigmoid(-v[3]))) / 4
        assert loss == pytest.approx(want, rel=1e-5)
        assert metrics["reference_kl"] == pytest.approx(kl, rel=1e-4)


def test_single_responses_with_feedback(omni_encoder: Encoder) -> None:
    responses = [[tokens] for pair in PAIRS for tokens in pair]
    ref = [[tokens] for pair in REF for tokens in pair]
    paired, metrics_paired, _ = run(task("bco"), omni_encoder, pairs())
    rows = row_table(*responses, feedback=[[1.0], [-1.0], [1.0], [-1.0]], ref_logprobs=ref)
    loss, metrics, _ = run(task("bco", unpaired=True), omni_encoder, rows)
    assert loss == pytest.approx(paired, rel=1e-6)
    assert metrics == pytest.approx(metrics_paired, rel=1e-6)
    # One side alone: its own mean is the shift, and nothing is said of the other side.
    loss, metrics, policy = run(task("bco", unpaired=True), omni_encoder, rows.take([0, 2]))
    r = [BETA * (p - REF_SUMS[i]) for p, i in zip(policy, (0, 2), strict=True)]
    want = sum(-math.log(sigmoid(x - sum(r) / 2)) for x in r) / 2
    assert loss == pytest.approx(want, rel=1e-5)
    assert "reward_rejected" not in metrics
    assert "reward_margin" not in metrics


@pytest.mark.parametrize("objective", list(OBJECTIVES))
def test_cutting_the_batch_changes_nothing_and_empty_passes_add_nothing(objective: str, omni_encoder: Encoder) -> None:
    chosen, rows = task(objective), with_others() if objective == "kto" else pairs()
    trained, measured = measure(chosen, omni_encoder, rows, lambda table: logits_for(omni_encoder, table))
    loss_of = chosen.loss(omni_encoder, chosen.weights(trained), measured)
    read = read_by(chosen, omni_encoder, logits_for(omni_encoder, trained), trained)
    whole, whole_stats = loss_of(read, batch_of(trained), trained)
    first = sum(LENGTHS[:2])
    cuts = [
        (read[:first], trained.slice(0, 1)),
        (read[:0], trained.slice(0, 0)),
        (read[first:], trained.slice(1)),
    ]
    parts = [loss_of(values, batch_of(table), table) for values, table in cuts]
    torch.testing.assert_close(sum(part[0] for part in parts), whole)
    assert float(parts[1][0]) == 0.0
    for key, value in whole_stats.items():
        torch.testing.assert_close(sum(part[1][key] for part in parts), value, msg=key)
    assert all(part[1].keys() == whole_stats.keys() for part in parts)
