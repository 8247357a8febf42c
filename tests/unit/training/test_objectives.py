"""What the PPO learners read and minimise, against sums by hand."""

import math

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from mmrlhf_ray.algorithms.policy_loss import Clip
from mmrlhf_ray.algorithms.statistics import Stats
from mmrlhf_ray.config import AlgorithmConfig
from mmrlhf_ray.data.batches.collate import Batch, TokenRow, collate
from mmrlhf_ray.data.encoding.encode import Encoder
from mmrlhf_ray.schema import EXPERIENCE
from mmrlhf_ray.training.objectives import CriticObjective, Noted, Objective, PolicyObjective, policy_clip
from tests.unit.tiny import rollout_table

RESPONSES = [[20, 21, 22], [23], [24, 25]]
TEMPERATURE = 0.7


def experience(**columns: list[list[float]]) -> pa.Table:
    table = rollout_table([TokenRow([20], r, []) for r in RESPONSES])
    given = {"score": [0.0] * len(RESPONSES)} | columns
    for name in EXPERIENCE.names[len(table.column_names) :]:
        values = given.get(name, [[0.0] * len(r) for r in RESPONSES])
        table = table.append_column(EXPERIENCE.field(name), pa.array(values, EXPERIENCE.field(name).type))
    return table


def batch(rows: tuple[int, ...]) -> Batch:
    return collate([TokenRow([20], RESPONSES[i], []) for i in rows], [], {}, 0)


def loss_of(
    objective: Objective,
    encoder: Encoder,
    table: pa.Table,
    denominator: float,
    kl_coef: float,
    output: Tensor,
    rows: tuple[int, ...],
    noted: Noted | None = None,
) -> tuple[Tensor, Stats]:
    """Of a pass of these rows in which the head gave this output."""
    passed = batch(rows)
    read = objective.loss_reader(encoder)(output, passed.response_tokens)
    return objective.loss(encoder, table, denominator, kl_coef, noted)(read, passed, rows)


def logits(encoder: Encoder, tokens: int) -> Tensor:
    return torch.randn(tokens, len(encoder.tokenizer), generator=torch.Generator().manual_seed(0), requires_grad=True)


def sampling_logprobs(encoder: Encoder, output: Tensor, tokens: list[int]) -> tuple[list[float], list[float]]:
    """log p and entropy of each row of logits, banned tokens left out, in plain Python."""
    logprobs, entropies = [], []
    for row, token in zip(output.tolist(), tokens, strict=True):
        allowed = {i: z / TEMPERATURE for i, z in enumerate(row) if i not in encoder.banned_token_ids}
        total = math.log(sum(math.exp(z) for z in allowed.values()))
        logprobs.append(allowed[token] - total)
        entropies.append(-sum(math.exp(z - total) * (z - total) for z in allowed.values()))
    return logprobs, entropies


def test_the_policy_reads_the_sampling_distribution(omni_encoder: Encoder) -> None:
    output = logits(omni_encoder, 3)
    got = PolicyObjective(AlgorithmConfig(), TEMPERATURE).reader(omni_encoder)(output, batch((1, 2)).response_tokens)
    want, _ = sampling_logprobs(omni_encoder, output, [23, 24, 25])
    assert got.tolist() == pytest.approx(want, rel=1e-5)


def test_the_policy_loss_takes_the_rows_of_its_pass(omni_encoder: Encoder) -> None:
    rows = (2, 1)  # in the pass's order, not the table's
    output = logits(omni_encoder, 3)
    current, _ = sampling_logprobs(omni_encoder, output, [24, 25, 23])
    old = [[0.0] * 3, [current[2] - math.log(1.1)], [current[0], current[1] - math.log(1.5)]]
    advantages = [[9.0] * 3, [-2.0], [1.0, 3.0]]
    objective = PolicyObjective(AlgorithmConfig(clip_range=0.2), TEMPERATURE)
    table = experience(old_logprobs=old, advantages=advantages)
    loss, stats = loss_of(objective, omni_encoder, table, 10, 0.0, output, rows)
    # Ratios 1, 1.5 (clipped to 1.2) and 1.1 (within the range).
    assert loss.item() == pytest.approx(-(1.0 * 1.0 + 3.0 * 1.2 - 2.0 * 1.1) / 10, rel=1e-4)
    assert float(stats["tokens"]) == 3
    assert float(stats["clip_fraction"]) == 1
    assert float(stats["ratio_max"]) == pytest.approx(1.5, rel=1e-4)


def test_tokens_outside_the_mask_do_not_count(omni_encoder: Encoder) -> None:
    table = experience(advantages=[[1.0, 100.0, 1.0], [0.0], [0.0, 0.0]])
    mask = pa.array([[True, False, True], [True], [True, True]], EXPERIENCE.field("response_mask").type)
    place = table.column_names.index("response_mask")
    table = table.set_column(place, EXPERIENCE.field("response_mask"), mask)
    output = logits(omni_encoder, 3)
    objective = PolicyObjective(AlgorithmConfig(), TEMPERATURE)
    loss, stats = loss_of(objective, omni_encoder, table, 2, 0.0, output, (0,))
    assert float(stats["tokens"]) == 2
    loss.backward()
    assert output.grad is not None
    assert float(output.grad[1].abs().max()) == 0.0
    assert float(output.grad[0].abs().max()) > 0.0


def test_the_entropy_bonus_lowers_the_loss(omni_encoder: Encoder) -> None:
    output = logits(omni_encoder, 3)
    logprobs, entropies = sampling_logprobs(omni_encoder, output, RESPONSES[0])
    table = experience(old_logprobs=[logprobs, [0.0], [0.0, 0.0]], advantages=[[1.0, 2.0, 3.0], [0.0], [0.0, 0.0]])
    objective = PolicyObjective(AlgorithmConfig(entropy_coef=0.5), TEMPERATURE)
    loss, stats = loss_of(objective, omni_encoder, table, 4, 0.0, output, (0,))
    assert float(stats["entropy"]) == pytest.approx(sum(entropies), rel=1e-5)
    assert loss.item() == pytest.approx((-6.0 - 0.5 * sum(entropies)) / 4, rel=1e-4)


@pytest.mark.parametrize(
    ("correction", "gaps", "weights"),
    [
        ("tis", [0.5, 3.0, -2.0], [math.exp(0.5), 5.0, math.exp(-2.0)]),
        ("icepop", [0.5, 3.0, -2.0], [math.exp(0.5), 0.0, 0.0]),
        ("sequence_mask", [0.5, 3.0, -2.0], [1.0, 1.0, 1.0]),  # the geometric mean, e^0.5, is within the bounds
        ("sequence_mask", [0.5, 3.0, 2.0], [0.0, 0.0, 0.0]),
    ],
)
def test_a_mismatch_correction_leaves_kl_and_entropy_whole(
    omni_encoder: Encoder, correction: str, gaps: list[float], weights: list[float]
) -> None:
    # The learner gives each token e^gap times the sampler's probability.
    output = logits(omni_encoder, 3)
    logprobs, entropies = sampling_logprobs(omni_encoder, output, RESPONSES[0])
    ref = [logprob - 0.3 for logprob in logprobs]
    old = [float(r) + gap for r, gap in zip(experience()["rollout_logprobs"][0].as_py(), gaps, strict=True)]
    table = experience(
        old_logprobs=[old, [0.0], [0.0, 0.0]],
        ref_logprobs=[ref, [0.0], [0.0, 0.0]],
        advantages=[[1.0, 1.0, 1.0], [0.0], [0.0, 0.0]],
    )
    algorithm = AlgorithmConfig(
        clip_range=None, entropy_coef=0.5, kl_in="loss", kl_estimator="k2", mismatch={"correction": correction}
    )
    objective = PolicyObjective(algorithm, TEMPERATURE)
    loss, stats = loss_of(objective, omni_encoder, table, 3, 0.1, output, (0,))
    policy = -sum(w * math.exp(p - o) for w, p, o in zip(weights, logprobs, old, strict=True))
    assert float(stats["kl_loss"]) == pytest.approx(3 * 0.5 * 0.3**2, rel=1e-4)
    assert float(stats["entropy"]) == pytest.approx(sum(entropies), rel=1e-5)
    assert loss.item() == pytest.approx((policy + 0.1 * 3 * 0.5 * 0.3**2 - 0.5 * sum(entropies)) / 3, rel=1e-4)


@pytest.mark.parametrize(
    ("keys", "bounds"),
    [
        ({}, Clip(0.2, 0.2)),
        ({"clip_range_high": 0.28, "dual_clip": 3.0}, Clip(0.2, 0.28, 3.0)),
        ({"clip_range": None}, Clip(None, None)),
        ({"clip_range": None, "clip_range_high": 0.3}, Clip(None, 0.3)),
        ({"policy_loss": "cispo"}, Clip(None, 4.0)),
    ],
)
def test_clip_of_a_configuration(keys: dict[str, object], bounds: Clip) -> None:
    assert policy_clip(AlgorithmConfig.model_validate(keys)) == bounds


def test_the_critic_reads_its_one_output_and_scales_its_loss(omni_encoder: Encoder) -> None:
    output = torch.tensor([[1.0], [2.0], [0.5]], requires_grad=True)
    returns = [[0.0], [3.0], [1.0, 0.5]]
    table = experience(values=[[0.0] * 3, [1.0], [2.0, 0.5]], returns=[[0.0] * 3, *returns[1:]])
    objective = CriticObjective(AlgorithmConfig(vf_coef=2.0, value_clip_range=0.2))
    assert objective.reader(omni_encoder)(output, batch((1, 2)).response_tokens).tolist() == [1.0, 2.0, 0.5]
    loss, stats = loss_of(objective, omni_encoder, table, 5, 0.0, output, (1, 2))
    errors = np.array([1.0 - 3.0, 2.0 - 1.0, 0.5 - 0.5])
    assert loss.item() == pytest.approx(2.0 * 0.5 * float((errors**2).sum()) / 5)
    assert float(stats["value_tokens"]) == 3


def test_a_pass_without_rows_adds_nothing(omni_encoder: Encoder) -> None:
    empty = collate([], [TokenRow([20], [], [])], {}, 0)
    for objective, width in (
        (PolicyObjective(AlgorithmConfig(), 1.0), len(omni_encoder.tokenizer)),
        (PolicyObjective(AlgorithmConfig(entropy_coef=0.1), 1.0), len(omni_encoder.tokenizer)),
        (CriticObjective(AlgorithmConfig()), 1),
    ):
        output = torch.zeros(0, width, requires_grad=True)
        values = objective.loss_reader(omni_encoder)(output, empty.response_tokens)
        loss, _ = objective.loss(omni_encoder, experience(), 7, 0.1)(values, empty, ())
        assert loss.item() == 0.0
        loss.backward()


@pytest.mark.parametrize("policy_loss", ["ppo", "gspo", "cispo"])
@pytest.mark.parametrize("correction", ["none", "tis", "icepop", "sequence_mask"])
def test_the_pass_itself_serves_for_old_logprobs(omni_encoder: Encoder, policy_loss: str, correction: str) -> None:
    """Loss, gradient and statistics as with a pass before the update that says the same."""
    rows, advantages = (2, 1), [[9.0] * 3, [-2.0], [1.0, 3.0]]
    mismatch = {"correction": correction, "low": 0.5, "high": 1.2}
    algorithm = AlgorithmConfig.model_validate(
        {"policy_loss": policy_loss, "mismatch": mismatch, "entropy_coef": 0.1, "kl_in": "loss", "kl_estimator": "k2"}
    )
    objective, output, passed = PolicyObjective(algorithm, TEMPERATURE), logits(omni_encoder, 3), batch(rows)
    read = objective.reader(omni_encoder)(output, passed.response_tokens).detach()
    sampled = [[0.0] * 3, (read[2:] - 0.1).tolist(), (read[:2] + torch.tensor([0.1, -0.9])).tolist()]
    found: list[tuple[tuple[int, ...], Tensor]] = []
    results = []
    for old, noted in (
        ([[0.0] * 3, read[2:].tolist(), read[:2].tolist()], None),
        ([[math.nan] * 3, [math.nan], [math.nan] * 2], lambda numbers, logprobs: found.append((numbers, logprobs))),
    ):
        table = experience(old_logprobs=old, advantages=advantages, ref_logprobs=[[-1.0] * 3, [-1.0], [-1.0] * 2])
        column = pa.array(sampled, EXPERIENCE.field("rollout_logprobs").type)
        place = table.column_names.index("rollout_logprobs")
        table = table.set_column(place, EXPERIENCE.field("rollout_logprobs"), column)
        loss, stats = loss_of(objective, omni_encoder, table, 10, 0.2, output, rows, noted)
        results.append(({"loss": loss, **stats}, torch.autograd.grad(loss, output)[0]))
    torch.testing.assert_close(results[0], results[1])
    ((numbers, logprobs),) = found
    assert numbers == rows
    assert logprobs.tolist() == read.tolist()
    assert not logprobs.requires_grad
