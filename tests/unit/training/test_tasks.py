"""What SFT minimises and reports, against sums by hand."""

import math

import pyarrow as pa
import pytest
import torch
from torch import Tensor

from mmrlhf_ray.data.encoding.encode import Encoder
from mmrlhf_ray.training.tasks import SFTTask
from tests.unit.training.rows import batch_of, by_hand, logits_for, read_by, row_table

RESPONSES = [[[20, 21, 22]], [[23]], [[24, 20]], [[21, 22]]]
FEEDBACK = [[0.0], [0.0], [1.0], [-0.5]]


def run(task: SFTTask, encoder: Encoder, rows: pa.Table, logits: Tensor) -> tuple[float, Tensor, dict[str, float]]:
    """Loss, gradient and metrics where this is the whole batch."""
    logits = logits.clone().requires_grad_()
    read = read_by(task, encoder, logits, rows)
    loss, stats = task.loss(encoder, task.weights(rows), {})(read, batch_of(rows), rows)
    loss.backward()
    return float(loss.detach()), logits.grad, task.metrics({k: float(v) for k, v in stats.items()})


def test_sft_is_the_mean_negative_log_likelihood_without_banned_tokens(omni_encoder: Encoder) -> None:
    rows = row_table(*RESPONSES[:2])
    logits = logits_for(omni_encoder, rows)
    assert SFTTask().weights(rows) == {"tokens": 4, "feedback_rows": 0}
    loss, _, metrics = run(SFTTask(), omni_encoder, rows, logits)
    want = -sum(by_hand(omni_encoder, logits, rows)) / 4
    assert loss == pytest.approx(want, rel=1e-5)
    assert metrics == pytest.approx({"loss": want, "response_tokens": 4.0}, rel=1e-5)
    halved = SFTTask().loss(omni_encoder, {"tokens": 8.0, "feedback_rows": 0.0}, {})
    read = read_by(SFTTask(), omni_encoder, logits, rows)
    assert float(halved(read, batch_of(rows), rows)[0]) == pytest.approx(want / 2, rel=1e-5)


def test_feedback_rows_add_the_human_feedback_loss(omni_encoder: Encoder) -> None:
    rows = row_table(*RESPONSES, feedback=FEEDBACK)
    logits = logits_for(omni_encoder, rows)
    assert SFTTask(0.3).weights(rows) == {"tokens": 4, "feedback_rows": 2}
    loss, _, metrics = run(SFTTask(0.3), omni_encoder, rows, logits)
    first, second, liked, disliked = by_hand(omni_encoder, logits, rows)
    nll, judged = -(first + second) / 4, -(1.0 * liked - 0.5 * disliked) / 2
    assert loss == pytest.approx(nll + 0.3 * judged, rel=1e-5)
    assert metrics == pytest.approx(
        {
            "loss": nll + 0.3 * judged,
            "nll": nll,
            "feedback_loss": judged,
            "liked_logprobs": liked,
            "disliked_logprobs": disliked,
            "response_tokens": 4.0,
        },
        rel=1e-5,
    )


def test_with_coefficient_0_feedback_rows_change_neither_loss_nor_gradient(omni_encoder: Encoder) -> None:
    rows = row_table(*RESPONSES, feedback=FEEDBACK)
    logits = logits_for(omni_encoder, rows)
    loss, gradient, _ = run(SFTTask(0.0), omni_encoder, rows, logits)
    alone, gradient_alone, _ = run(SFTTask(0.0), omni_encoder, rows.slice(0, 2), logits[:4])
    assert loss == alone
    assert torch.equal(gradient[:4], gradient_alone)
    assert not gradient[4:].any()
    assert run(SFTTask(0.3), omni_encoder, rows, logits)[1][4:].any()


@pytest.mark.parametrize(("kept", "keys"), [(slice(0, 2), {"loss"}), (slice(2, 4), {"loss", "nll", "feedback_loss"})])
def test_a_batch_without_one_kind_of_rows_lacks_its_term(omni_encoder: Encoder, kept: slice, keys: set[str]) -> None:
    rows = row_table(*RESPONSES[kept], feedback=FEEDBACK[kept])
    logits = logits_for(omni_encoder, rows)
    loss, gradient, metrics = run(SFTTask(0.3), omni_encoder, rows, logits)
    values = by_hand(omni_encoder, logits, rows)
    want = -sum(values) / 4 if kept.start == 0 else -0.3 * (values[0] - 0.5 * values[1]) / 2
    assert loss == pytest.approx(want, rel=1e-5)
    assert gradient.isfinite().all()
    assert keys <= metrics.keys()
    assert all(math.isfinite(value) for value in metrics.values())


def test_a_pass_without_rows_adds_nothing(omni_encoder: Encoder) -> None:
    empty = row_table()
    sft = SFTTask(0.3).loss(omni_encoder, {"tokens": 1.0, "feedback_rows": 1.0}, {})
    loss, stats = sft(torch.zeros(0), batch_of(empty), empty)
    assert (float(loss), float(stats["tokens"]), float(stats["feedback_rows"])) == (0.0, 0.0, 0.0)
