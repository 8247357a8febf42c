"""How rows are cut into passes changes no number, in inference and in training."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mmrlhf_ray.algorithms.logprobs import token_logprobs
from mmrlhf_ray.algorithms.losses import sft_loss
from mmrlhf_ray.algorithms.statistics import Stats
from mmrlhf_ray.config.learner import EngineConfig, OptimizerConfig
from mmrlhf_ray.data.batches.batching import MicroBatch
from mmrlhf_ray.data.batches.collate import Batch
from mmrlhf_ray.data.encoding.encode import Encoder
from mmrlhf_ray.models import HeadedModel, load_policy
from mmrlhf_ray.training.engine import TrainEngine
from mmrlhf_ray.training.passes import Inference, Passes, train_step
from tests.unit.tiny import mixed_rows

CPU = torch.device("cpu")
ONE = [MicroBatch((0, 1, 2, 3, 4))]
LINES = [MicroBatch((0, 1, 2, 3, 4), lines=(0, 1, 0, 1, 1))]
MANY_LINES = [
    MicroBatch((2,), ("audio", "video"), (0,)),
    MicroBatch((), ("text",)),
    MicroBatch((4, 0), (), (0, 0)),
    MicroBatch((3, 1), ("image",), (0, 1)),
]
MANY = [
    MicroBatch((2,), ("audio", "video")),
    MicroBatch((), ("text",)),
    MicroBatch((4, 0)),
    MicroBatch((3, 1), ("image",)),
]


def read(output: Tensor, tokens: Tensor) -> Tensor:
    return token_logprobs(output, tokens)


def passes_for(encoder: Encoder, passes: list[MicroBatch]) -> list[MicroBatch]:
    """Without dummies of kinds that the family lacks."""
    known = {"text", *encoder.adapter.placeholders}
    return [replace(m, dummies=tuple(k for k in m.dummies if k in known)) for m in passes]


def test_inference_does_not_depend_on_the_cut(encoder: Encoder, policy: HeadedModel) -> None:
    rows, features = mixed_rows(encoder)
    runner = Passes(Inference(policy), encoder, CPU)

    def by_row(passes: list[MicroBatch]) -> dict[int, Tensor]:
        found = {}
        for micro_batch, values in runner.infer(rows, features, passes_for(encoder, passes), read):
            parts = values.split([len(rows[i].response) for i in micro_batch.rows])
            found |= dict(zip(micro_batch.rows, parts, strict=True))
        return found

    whole = by_row(ONE)
    for cut in (by_row(passes) for passes in (MANY, LINES, MANY_LINES)):
        assert sorted(whole) == sorted(cut) == list(range(5))
        for row, values in whole.items():
            assert len(values) == len(rows[row].response)
            torch.testing.assert_close(cut[row], values, atol=2e-5, rtol=1e-5)


def test_reading_at_the_last_token(encoder: Encoder, policy: HeadedModel) -> None:
    rows, features = mixed_rows(encoder)
    runner = Passes(Inference(policy), encoder, CPU)
    passes = passes_for(encoder, MANY)
    answers = list(runner.infer(rows, features, passes, lambda output, _: output[:, 0], at_last=True))
    assert [len(values) for _, values in answers] == [1, 0, 2, 2]
    alone = list(runner.infer(rows, features, [MicroBatch((1,))], lambda output, _: output[:, 0], at_last=True))
    torch.testing.assert_close(answers[3][1][1:], alone[0][1], atol=2e-5, rtol=1e-5)
    assert not any(values.requires_grad for _, values in answers)


def test_dummies_come_last_and_are_anchored(encoder: Encoder, policy: HeadedModel) -> None:
    rows, features = mixed_rows(encoder)
    runner = Passes(Inference(policy), encoder, CPU)
    (batch,) = runner.batches(rows, features, [MicroBatch((0,), ("image", "video"))])
    assert batch.inputs["input_ids"].shape[0] == 3
    assert len(batch.anchor_positions) == 2
    assert {"pixel_values", "pixel_values_videos"} <= set(batch.inputs)


def nll(output: Tensor, batch: Batch, _: object) -> tuple[Tensor, Stats]:
    logprobs = output[None]
    return sft_loss(logprobs, torch.ones_like(logprobs, dtype=torch.bool), denominator=15)


@pytest.mark.parametrize(("stage", "other"), [(0, MANY), (2, MANY), (0, LINES), (2, MANY_LINES)])
def test_a_step_does_not_depend_on_the_cut(
    process_group: None, omni: Path, omni_encoder: Encoder, stage: int, other: list[MicroBatch]
) -> None:
    rows, features = mixed_rows(omni_encoder)

    def step(passes: list[MicroBatch]) -> tuple[dict[str, Tensor], Stats, float]:
        model = load_policy(omni_encoder.adapter, omni, torch.float32)
        # A large eps makes the update follow the gradient's size, not only its sign.
        optimizer = OptimizerConfig(lr=0.1, eps=1.0, max_grad_norm=100.0)
        engine = TrainEngine(model, EngineConfig(zero_stage=stage), optimizer, 1, torch.float32, CPU)
        stats = train_step(engine, Passes(engine, omni_encoder, CPU), rows, features, passes, nll, read=read)
        return {n: t for bucket in engine.buckets(1 << 30) for n, t in bucket}, stats, engine.grad_norm

    start = {n: p.detach() for n, p in load_policy(omni_encoder.adapter, omni, torch.float32).named_parameters()}
    whole, stats, norm = step(ONE)
    cut, cut_stats, cut_norm = step(other)
    assert float(stats["tokens"]) == sum(len(row.response) for row in rows)
    assert cut_stats.keys() == stats.keys()
    for key, value in stats.items():
        torch.testing.assert_close(cut_stats[key], value, rtol=1e-5, atol=1e-5)
    assert cut_norm == pytest.approx(norm, rel=1e-4)
    assert sum(not torch.equal(whole[n], start[n]) for n in start) > 0.9 * len(start), "the step moved the model"
    for name, tensor in whole.items():
        torch.testing.assert_close(cut[name], tensor, atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
