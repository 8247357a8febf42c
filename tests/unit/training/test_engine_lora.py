"""The engine with a model of which only an adapter is trained, under every ZeRO stage. (Several ranks: tests/ray.)"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mmrlhf_ray.config.learner import EngineConfig, OptimizerConfig
from mmrlhf_ray.config.parts import LoRAConfig
from mmrlhf_ray.data.batches.collate import Batch, collate
from mmrlhf_ray.data.encoding.encode import Encoder
from mmrlhf_ray.errors import RunError
from mmrlhf_ray.models import HeadedModel, add_lora, load_policy, load_scalar, merged_weights, trained_weights
from mmrlhf_ray.training.engine import TrainEngine, partitioned_loading
from tests.unit.tiny import mixed_rows

LORA = LoRAConfig(rank=2, alpha=8.0, target_modules=("q_proj", "o_proj", "down_proj"))
OPTIMIZER = OptimizerConfig(lr=0.01, weight_decay=0.1, max_grad_norm=0.3)
STEPS = 3
Load = Callable[..., HeadedModel]


@pytest.fixture
def batch(omni_encoder: Encoder) -> Batch:
    rows, features = mixed_rows(omni_encoder)
    return collate(rows, [], features, 0)


def model(
    encoder: Encoder, path: Path, load: Load = load_policy, config: LoRAConfig = LORA, **more: bool
) -> HeadedModel:
    made = load(encoder.adapter, path, torch.float32, **more)
    add_lora(made, encoder.adapter, config, train_head=load is load_scalar, seed=3)
    return made


def engine_of(encoder: Encoder, path: Path, stage: int, config: LoRAConfig = LORA) -> TrainEngine:
    with partitioned_loading(EngineConfig(zero_stage=stage), OPTIMIZER, torch.float32):
        made = model(encoder, path, config=config)
    return TrainEngine(made, EngineConfig(zero_stage=stage), OPTIMIZER, STEPS, torch.float32, torch.device("cpu"))


def loss_of(output: Tensor, batch: Batch) -> Tensor:
    return -output.log_softmax(-1).gather(1, batch.response_tokens[:, None]).mean()


def train(engine: TrainEngine, batch: Batch, steps: int) -> list[float]:
    norms = []
    for _ in range(steps):
        engine.backward(loss_of(engine.forward(batch.response_positions, **batch.inputs), batch), last=True)
        norms.append(engine.grad_norm)
    return norms


@torch.no_grad()
def output(engine: TrainEngine, batch: Batch) -> Tensor:
    return engine.forward(batch.response_positions, **batch.inputs)


def plain_torch(made: HeadedModel, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor], list[float]]:
    """Trained and merged weights and gradient norms of the same training without DeepSpeed."""
    trained, norms = [p for p in made.parameters() if p.requires_grad], []
    adamw = torch.optim.AdamW(trained, lr=0.01, betas=OPTIMIZER.betas, eps=OPTIMIZER.eps, weight_decay=0.1)
    for _ in range(STEPS):
        adamw.zero_grad()
        loss_of(made(batch.response_positions, **batch.inputs), batch).backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(trained, OPTIMIZER.max_grad_norm)))
        adamw.step()
    of = [{w.name: w.value().clone() for w in weights(made)} for weights in (trained_weights, merged_weights)]
    return of[0], of[1], norms


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_only_the_adapter_learns_and_it_learns_what_plain_torch_teaches(
    process_group: None, omni_encoder: Encoder, omni: Path, batch: Batch, stage: int
) -> None:
    engine = engine_of(omni_encoder, omni, stage)
    base = output(engine, batch)
    norms = train(engine, batch, STEPS)
    want_trained, want_merged, want_norms = plain_torch(model(omni_encoder, omni), batch)
    assert max(want_norms) > OPTIMIZER.max_grad_norm, "clipping must have something to do"
    assert norms == pytest.approx(want_norms, rel=1e-4)
    for got, want in ((engine.weights(trained_only=True), want_trained), (engine.weights(), want_merged)):
        assert set(got) == set(want)
        for name, tensor in want.items():
            torch.testing.assert_close(got[name], tensor, atol=1e-5, rtol=1e-5)
    assert float((output(engine, batch) - base).abs().max()) > 0.01
    with engine.adapter_off():
        assert torch.equal(output(engine, batch), base)
    train(engine, batch, 1)  # and on it goes
    assert not torch.equal(engine.weights(trained_only=True)[_FACTOR], want_trained[_FACTOR])


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_towers_learn_an_adapter_and_a_projector_in_full_what_plain_torch_teaches(
    process_group: None, omni_encoder: Encoder, omni: Path, batch: Batch, stage: int
) -> None:
    targets = ("q_proj", "attn.proj", "fc1")
    config = LoRAConfig(
        rank=2,
        parts=("language_model", "vision_tower", "audio_tower"),
        target_modules=targets,
        also_train=("projector",),
    )
    engine = engine_of(omni_encoder, omni, stage, config)
    norms = train(engine, batch, STEPS)
    want_trained, want_merged, want_norms = plain_torch(model(omni_encoder, omni, config=config), batch)
    assert norms == pytest.approx(want_norms, rel=1e-4)
    for got, want in ((engine.weights(trained_only=True), want_trained), (engine.weights(), want_merged)):
        assert set(got) == set(want)
        for name, tensor in want.items():
            torch.testing.assert_close(got[name], tensor, atol=3e-4, rtol=0.0)  # AdamW makes steps of rounding errors


_FACTOR = "backbone.model.layers.0.self_attn.q_proj.lora_B.weight"


def test_buckets_of_the_adapter_are_within_their_size(process_group: None, omni_encoder: Encoder, omni: Path) -> None:
    made = model(omni_encoder, omni)
    engine = TrainEngine(made, EngineConfig(zero_stage=0), OPTIMIZER, STEPS, torch.float32, torch.device("cpu"))
    sizes = {w.name: w.nbytes for w in trained_weights(made)}
    limit = 4000
    buckets = list(engine.buckets(limit, trained_only=True))
    assert [name for bucket in buckets for name, _ in bucket] == list(sizes)
    assert len(buckets) > 1
    assert all(sum(sizes[name] for name, _ in bucket) <= limit for bucket in buckets)


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_a_checkpoint_is_as_small_as_the_adapter_and_goes_on_where_it_was(
    process_group: None, omni_encoder: Encoder, omni: Path, batch: Batch, tmp_path: Path, stage: int
) -> None:
    straight = engine_of(omni_encoder, omni, stage)
    train(straight, batch, 2)
    straight.save(tmp_path / "state")
    written = sum(file.stat().st_size for file in tmp_path.rglob("*.pt"))
    assert written < 0.5 * sum(tensor.nbytes for tensor in straight.weights().values())
    train(straight, batch, 1)
    resumed = engine_of(omni_encoder, omni, stage)
    resumed.load(tmp_path / "state")
    train(resumed, batch, 1)
    want, got = straight.weights(), resumed.weights()
    assert all(torch.equal(got[name], tensor) for name, tensor in want.items())


@pytest.mark.parametrize("targets", [("q_proj", "o_proj"), ("q_proj", "o_proj", "down_proj", "v_proj")])
def test_a_checkpoint_of_another_adapter_is_refused(
    process_group: None, omni_encoder: Encoder, omni: Path, batch: Batch, tmp_path: Path, targets: tuple[str, ...]
) -> None:
    engine_of(omni_encoder, omni, 2).save(tmp_path / "state")
    other = engine_of(omni_encoder, omni, 2, LORA.model_copy(update={"target_modules": targets}))
    with pytest.raises(RunError, match=r"other parameters were trained, the difference is .*_proj.*`parts` and `lora`"):
        other.load(tmp_path / "state")


def test_a_scalar_head_is_trained_with_the_adapter(
    process_group: None, omni_encoder: Encoder, omni: Path, batch: Batch
) -> None:
    made = model(omni_encoder, omni, load_scalar, new_head=True)
    engine = TrainEngine(made, EngineConfig(zero_stage=2), OPTIMIZER, STEPS, torch.float32, torch.device("cpu"))
    before = engine.weights()
    for _ in range(2):  # the head starts as zeros, through which no gradient reaches the adapter at first
        engine.backward((engine.forward(batch.last_positions, **batch.inputs) - 1.0).square().mean(), last=True)
    after = engine.weights()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {w.name.split(".lora_")[0].removesuffix(".weight") + ".weight" for w in trained_weights(made)}
    assert "head.weight" in moved


@pytest.mark.parametrize("stage", [0, 3])
def test_gradient_checkpointing_reaches_the_adapter(
    process_group: None, omni_encoder: Encoder, omni: Path, batch: Batch, stage: int
) -> None:
    trained = []
    for checkpointing in (False, True):
        config = EngineConfig(zero_stage=stage, gradient_checkpointing=checkpointing)
        with partitioned_loading(config, OPTIMIZER, torch.float32):
            made = model(omni_encoder, omni)
        engine = TrainEngine(made, config, OPTIMIZER, STEPS, torch.float32, torch.device("cpu"))
        engine.train()
        train(engine, batch, 2)
        trained.append(engine.weights(trained_only=True))
    for name, tensor in trained[0].items():
        torch.testing.assert_close(trained[1][name], tensor, atol=1e-6, rtol=1e-5)
