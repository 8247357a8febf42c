"""What SFT and reward-model training minimise and report, against sums by hand."""

import math

import pyarrow as pa
import pytest
import torch
from torch import Tensor

from mmrlhf_ray.data.collate import Batch, TokenRow, collate
from mmrlhf_ray.data.encode import Encoder
from mmrlhf_ray.schema import TRAINING_ROW
from mmrlhf_ray.training.tasks import RewardModelTask, SFTTask


def table(*responses: list[list[int]]) -> pa.Table:
    rows = [
        {
            "row": i,
            "prompt_id": str(i),
            "task": "t",
            "modality": "text",
            "context_token_ids": [20, 21],
            "responses_token_ids": of_row,
            "margin": 0.5,
            "media_ids": [],
            "features": b"",
            "problem": "",
        }
        for i, of_row in enumerate(responses)
    ]
    return pa.Table.from_pylist(rows, schema=TRAINING_ROW)


def batch_of(*responses: list[int]) -> Batch:
    return collate([TokenRow([20, 21], r, []) for r in responses], [], {}, 0)


def test_sft_is_the_mean_negative_log_likelihood_without_banned_tokens(omni_encoder: Encoder) -> None:
    responses = [[20, 21, 22], [23]]
    vocabulary = len(omni_encoder.tokenizer)
    logits = torch.randn(4, vocabulary, generator=torch.Generator().manual_seed(0))
    rows = table(*[[r] for r in responses])
    task = SFTTask()
    assert task.weight(rows) == 4
    loss, stats = task.loss(omni_encoder, rows, 8.0)(logits, batch_of(*responses), (0, 1))
    allowed = [i for i in range(vocabulary) if i not in omni_encoder.banned_token_ids]
    want = 0.0
    for row, token in zip(logits.tolist(), [20, 21, 22, 23], strict=True):
        want -= row[token] - math.log(sum(math.exp(row[i]) for i in allowed))
    assert float(loss) == pytest.approx(want / 8, rel=1e-5)
    metrics = task.metrics({k: float(v) for k, v in stats.items()})
    assert metrics == pytest.approx({"loss": want / 4, "response_tokens": 4.0}, rel=1e-5)


def reward_loss(task: RewardModelTask, encoder: Encoder, scores: Tensor) -> tuple[float, dict[str, float]]:
    pairs = table([[20], [21]], [[20], [21]])
    loss, stats = task.loss(encoder, pairs, task.weight(pairs))(scores[:, None], batch_of([20]), (0, 1, 2, 3))
    return float(loss), {k: float(v) for k, v in stats.items()}


def test_chosen_and_rejected_alternate(omni_encoder: Encoder) -> None:
    task = RewardModelTask(label_smoothing=0.0, center_coef=0.0)
    loss, stats = reward_loss(task, omni_encoder, torch.tensor([2.0, -1.0, 0.0, 1.0]))
    want = (math.log1p(math.exp(-3.0)) + math.log1p(math.exp(1.0))) / 2
    assert loss == pytest.approx(want, rel=1e-5)
    assert task.metrics(stats) == pytest.approx({"loss": want, "pair_accuracy": 0.5}, rel=1e-5)
    assert (stats["score_chosen"], stats["score_rejected"]) == (2.0, 0.0)


def test_smoothing_and_centring_reach_the_loss(omni_encoder: Encoder) -> None:
    scores = torch.tensor([2.0, -1.0, 0.0, 1.0])
    smooth, _ = reward_loss(RewardModelTask(0.1, 0.0), omni_encoder, scores)
    plain, _ = reward_loss(RewardModelTask(0.0, 0.0), omni_encoder, scores)
    centred, _ = reward_loss(RewardModelTask(0.0, 0.5), omni_encoder, scores)
    # −log σ(−d) = −log σ(d) + d: smoothing adds s times the mean difference.
    assert smooth - plain == pytest.approx(0.1 * (3.0 - 1.0) / 2, rel=1e-4)
    assert centred - plain == pytest.approx(0.5 * (1.0 + 1.0) / 2, rel=1e-4)


def test_a_pass_without_rows_adds_nothing(omni_encoder: Encoder) -> None:
    empty = collate([], [TokenRow([20], [], [])], {}, 0)
    loss, stats = SFTTask().loss(omni_encoder, table(), 1.0)(torch.zeros(0, len(omni_encoder.tokenizer)), empty, ())
    assert (float(loss), float(stats["tokens"])) == (0.0, 0.0)
    loss, stats = RewardModelTask(0.0, 0.1).loss(omni_encoder, table(), 1.0)(torch.zeros(0, 1), empty, ())
    assert (float(loss), float(stats["pairs"])) == (0.0, 0.0)
