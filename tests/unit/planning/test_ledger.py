"""The planner's activations and logits against a count of every storage of a pass, in models of real size."""

import json
import struct
from pathlib import Path

import pytest
import torch
from transformers import vision_utils

from mmrlhf_ray.algorithms.logprobs import token_logprobs
from mmrlhf_ray.config import ModelConfig
from mmrlhf_ray.data.batches.batching import MicroBatch
from mmrlhf_ray.data.batches.collate import Batch
from mmrlhf_ray.models.headed import HeadedModel
from mmrlhf_ray.planning.activations import PassLoad, inferring_pass, learning_pass, tower_bytes
from mmrlhf_ray.planning.sizes import ModelSize, model_size
from mmrlhf_ray.training.passes import Passes, train_step
from tests.unit.planning.ledger import Ledger
from tests.unit.planning.real_models import MODELS

WITHIN = 0.05


class OnePass(Passes):
    """A pass that is there already."""

    def __init__(self, model: "Learning", batch: Batch, tile: int):
        self._model, self._batch, self._tile, self._pad_token_id = model, batch, tile, 0

    def batches(self, *given: object):
        yield self._batch


class Learning:
    def __init__(self, model: HeadedModel):
        self.model = model

    def forward(self, select, reading=None, **inputs):
        return self.model(select, reading, **inputs)

    def backward(self, loss, *, last):
        loss.backward()


def planned_with(name: str, directory: Path, layers: int | None = None) -> tuple[ModelSize, HeadedModel]:
    """As the planner sizes the model's directory: its config.json, and the names and shapes of its weights."""
    model = MODELS[name].build(layers)
    model.backbone.config.save_pretrained(directory)
    shapes = {
        f"lm_{key}" if key.startswith("head") else key.removeprefix("backbone."): {"shape": list(value.shape)}
        for key, value in model.named_parameters()
    }
    header = json.dumps(shapes).encode()
    (directory / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    size = model_size(ModelConfig(path=str(directory)))
    assert size is not None
    return size, model


def numbers(*shape: int, dtype: torch.dtype = torch.long) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def text_pass(load: PassLoad) -> Batch:
    lines = load.tokens // load.line
    inputs = {
        "input_ids": numbers(lines, load.line),
        "position_ids": numbers(3, lines, load.line),
        "attention_mask": numbers(lines, 1, load.line, load.line, dtype=torch.bool),
    }
    return Batch(inputs, numbers(load.response_tokens), numbers(load.response_tokens), numbers(lines), numbers(0))


def counted(model: HeadedModel, load: PassLoad, *, learns: bool) -> int:
    """Bytes alive at the highest point of a pass, as training/ runs it."""
    batch, banned, learning = text_pass(load), numbers(20), Learning(model)

    def read(output, tokens):
        return token_logprobs(output, tokens, 1.0, banned)

    passes = OnePass(learning, batch, load.tile)
    with Ledger([*model.parameters(), *model.buffers()], batch.inputs.values()) as ledger:
        if learns:
            one, loss = [MicroBatch(())], lambda logprobs, *_: (logprobs.sum(), {})
            train_step(learning, passes, [], {}, one, loss, read=read)
        else:
            with torch.no_grad():
                passes.run(batch, read)
    return ledger.peak


FULL, SHORT, WORDY = PassLoad(16384, 256, 16384), PassLoad(8192, 2048, 4096), PassLoad(8192, 8000, 8192)
UNTILED = PassLoad(8192, 8000, 8192, tile=8192)


@pytest.mark.parametrize(("name", "load"), [("3B", WORDY), ("7B", FULL), ("72B", SHORT), ("30B-A3B", FULL)])
def test_a_pass_of_a_whole_model_that_learns(name, load, tmp_path):
    size, model = planned_with(name, tmp_path)
    assert size.parameters / 1e9 == pytest.approx(MODELS[name].parameters, rel=0.01)
    planned = learning_pass(size, "bfloat16", load, checkpointing=True, logits=True, towers_learn=True)
    assert sum(planned.values()) == pytest.approx(counted(model, load, learns=True), rel=WITHIN)


@pytest.mark.parametrize("load", [FULL, SHORT, WORDY, UNTILED])
@pytest.mark.parametrize("name", MODELS)
def test_a_pass_of_four_layers_that_learns(name, load, tmp_path):
    size, model = planned_with(name, tmp_path, layers=4)
    planned = learning_pass(size, "bfloat16", load, checkpointing=True, logits=True, towers_learn=True)
    assert sum(planned.values()) == pytest.approx(counted(model, load, learns=True), rel=WITHIN)


@pytest.mark.parametrize("name", ["7B", "30B-A3B"])
@pytest.mark.parametrize("load", [PassLoad(8192, 4, 2048), PassLoad(8192, 6000, 4096)])
def test_a_pass_that_infers(name, load, tmp_path):
    """Layers and logits are not alive at once: the larger part is the least, both together are the most."""
    size, model = planned_with(name, tmp_path, layers=4)
    seen = counted(model, load, learns=False)
    parts = inferring_pass(size, "bfloat16", load, logits=True)
    assert max(parts.values()) <= seen * (1 + WITHIN)
    assert sum(parts.values()) >= seen * (1 - WITHIN)


@pytest.mark.parametrize("name", ["7B", "30B-A3B"])
def test_a_pass_without_checkpoints(name, tmp_path):
    size, model = planned_with(name, tmp_path, layers=4)
    model.backbone.gradient_checkpointing_disable()
    load = PassLoad(4096, 1024, 4096)
    planned = learning_pass(size, "bfloat16", load, checkpointing=False, logits=True, towers_learn=True)
    assert sum(planned.values()) == pytest.approx(counted(model, load, learns=True), rel=WITHIN)


def seen_by(tower, side: int, clips: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Pixels of square pictures, and what the tower would otherwise work out from their sizes on the device."""
    grid = torch.tensor([[1, side, side]] * clips)
    known = {"position_ids": vision_utils.get_vision_position_ids(grid, 2).to("meta")}
    if hasattr(tower, "window_size"):
        index, windows = vision_utils.get_vision_window_index(
            grid, spatial_merge_size=2, window_size=tower.window_size, patch_size=tower.patch_size
        )
        known |= {"window_index": index.to("meta"), "cu_window_seqlens": windows}
    else:
        places = vision_utils.get_vision_interpolation_indices_and_weights(grid, 48, "bilinear", True, 2)
        known |= dict(zip(("interp_indices", "interp_weights"), (p.to("meta") for p in places)))
    pixels = numbers(clips * side**2, 6 * tower.config.patch_size**2, dtype=torch.float32)
    return pixels, {"grid_thw": grid, "cu_seqlens": vision_utils.get_vision_cu_seqlens(grid), **known}


@pytest.mark.parametrize("name", ["7B", "8B"])
def test_pictures_in_a_tower(name, tmp_path):
    size, model = planned_with(name, tmp_path, layers=1)
    tower = model.backbone.model.visual
    pixels, known = seen_by(tower, side=32, clips=2)
    with Ledger([*tower.parameters(), *tower.buffers(), *known.values()], [pixels]) as ledger:
        output = tower(pixels, **known)
        parts = [output.pooler_output, *(getattr(output, "deepstack_features", None) or ())]
        torch.stack([part.sum() for part in parts]).sum().backward()
    tokens = len(pixels) // 4
    planned = tower_bytes(size.towers["vision"], "bfloat16", tokens, size.hidden_size, checkpointing=True, learn=True)
    assert planned == pytest.approx(ledger.peak, rel=WITHIN)
