"""Under ZeRO-3 a model is loaded as it is without, and no rank ever holds more than its share and two layers."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import Qwen3OmniMoeConfig, Qwen3OmniMoeThinkerForConditionalGeneration

from mmrlhf_ray.config.learner import EngineConfig
from mmrlhf_ray.data.encoding.encode import Encoder
from mmrlhf_ray.demo.families import FAMILIES
from mmrlhf_ray.errors import ModelError
from mmrlhf_ray.models import (
    ModelAdapter,
    adapter_for,
    export_model,
    load_critic,
    load_policy,
    load_scalar,
)
from mmrlhf_ray.models.scalar_head import SCALAR_HEAD_FILE
from tests.unit.models.test_missing_weights import rewrite, shorter, without
from tests.unit.tiny_families import build_llava, build_mistral3
from tests.unit.training.rank_process import run_ranks

ALL = FAMILIES | {"llava": build_llava, "mistral3": build_mistral3}
"""The last two have no adapter of their own."""
MIB = 1 << 20


@contextmanager
def divided(dtype: torch.dtype = torch.float32) -> Iterator[None]:
    """Models that are loaded meanwhile are divided among the ranks of the group."""
    from mmrlhf_ray.training.engine import partitioned_loading  # DeepSpeed
    from tests.unit.training.test_engine import OPTIMIZER

    with partitioned_loading(EngineConfig(zero_stage=3), OPTIMIZER, dtype):
        yield


def assert_equal(got: nn.Module, want: nn.Module) -> None:
    """Parameters, of which some are one, and buffers. A collective."""
    from deepspeed import zero

    parameters, expected = (dict(model.named_parameters(remove_duplicate=False)) for model in (got, want))
    assert list(parameters) == list(expected)
    for name, parameter in parameters.items():
        assert hasattr(parameter, "ds_id") or name.startswith("head."), f"{name} is not divided"
        assert parameter.requires_grad
        with zero.GatheredParameters([parameter]):
            assert parameter.dtype == expected[name].dtype, name
            assert torch.equal(parameter, expected[name]), name
    assert len({id(p) for p in parameters.values()}) == len({id(p) for p in expected.values()})
    buffers, expected = (dict(model.named_buffers()) for model in (got, want))
    assert list(buffers) == list(expected)
    for name, buffer in buffers.items():
        assert torch.equal(buffer, expected[name]), name
    assert got.training == want.training


def load_all(rank: int, directory: Path) -> None:
    for family in ALL:
        path = directory / family
        adapter = adapter_for(path, unverified=True)
        for dtype in (torch.float32, torch.bfloat16):
            for load in (load_policy, load_critic):
                want = load(adapter, path, dtype)
                with divided(dtype):
                    got = load(adapter, path, dtype)
                assert_equal(got, want)


def test_every_family_is_loaded_as_without(tmp_path: Path) -> None:
    for family, build in ALL.items():
        build(tmp_path / family, 0)
    run_ranks(2, load_all, tmp_path)


@pytest.mark.parametrize("same", [True, False])
def test_weights_that_are_tied_by_the_configuration(process_group: None, tmp_path: Path, same: bool) -> None:
    """Where the files have both, they stay two unless they are the same."""
    FAMILIES["gemma3"](tmp_path, 0)
    head, table = "language_model.lm_head.weight", "language_model.model.embed_tokens.weight"
    rewrite(tmp_path, lambda tensors: tensors | {head: tensors[table].clone() + (not same)})
    adapter = adapter_for(tmp_path)
    want = load_policy(adapter, tmp_path, torch.float32)
    with divided():
        got = load_policy(adapter, tmp_path, torch.float32)
    assert (got.head.weight is got.backbone.get_input_embeddings().weight) == same
    assert_equal(got, want)


def copy_of(source: Path, target: Path) -> None:
    """Its weights may be replaced."""
    for file in source.iterdir():
        (target / file.name).symlink_to(file)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without("layers.1.mlp"), "its files lack .*layers.1.mlp"),
        (without("layers.0.", "layers.1."), "and [0-9]+ more"),
        (shorter("layers.0.mlp"), "have another shape than config.json says: .*layers.0.mlp"),
    ],
)
def test_weights_that_are_not_there_are_named(
    process_group: None, omni: Path, tmp_path: Path, change: object, words: str
) -> None:
    copy_of(omni, tmp_path)
    rewrite(tmp_path, change)
    for load in (load_policy, load_critic):
        with divided(), pytest.raises(ModelError, match=words):
            load(adapter_for(tmp_path), tmp_path, torch.float32)


def test_files_that_are_not_there(process_group: None, omni: Path, tmp_path: Path) -> None:
    copy_of(omni, tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.unlink()
    with divided(), pytest.raises(ModelError, match=r"read from safetensors, but model\.safetensors is not there"):
        load_policy(adapter_for(tmp_path), tmp_path, torch.float32)
    weights.write_bytes(b"xx")
    with divided(), pytest.raises(ModelError, match="its weights cannot be read"):
        load_policy(adapter_for(tmp_path), tmp_path, torch.float32)


def test_a_reward_model_has_its_own_head_and_no_vocabulary(
    process_group: None, vl: Path, vl_encoder: Encoder, tmp_path: Path
) -> None:
    adapter, reward = vl_encoder.adapter, tmp_path / "reward"
    export_model(adapter, vl, reward, dict(load_scalar(adapter, vl, torch.float32, new_head=True).named_parameters()),
                 scalar=True)  # fmt: skip
    for load in (load_critic, partial(load_scalar, new_head=False)):
        want = load(adapter, reward, torch.float32)
        with divided():
            got = load(adapter, reward, torch.float32)
        assert_equal(got, want)
    (reward / SCALAR_HEAD_FILE).unlink()
    with divided(), pytest.raises(ModelError, match=r"its files lack 1 weights .*: lm_head.weight"):
        load_policy(adapter, reward, torch.float32)


# Memory.

LAYERS, EXPERTS, WIDTH, HIDDEN = 6, 32, 512, 256
LAYER = EXPERTS * 3 * WIDTH * HIDDEN * 2
"""Bytes of a layer in bfloat16, attention apart, which is small."""


def build_mixture(path: Path, tiny: Path) -> int:
    """A Qwen3-Omni whose experts are nearly all of it, as its releases store them. Returns the bytes of its weights."""
    config = Qwen3OmniMoeConfig.from_pretrained(tiny)
    text = config.thinker_config.text_config
    text.num_hidden_layers, text.num_experts = LAYERS, EXPERTS
    text.moe_intermediate_size, text.hidden_size = WIDTH, HIDDEN
    config.thinker_config.vision_config.out_hidden_size = config.thinker_config.audio_config.output_dim = HIDDEN
    with torch.device("meta"):
        model = Qwen3OmniMoeThinkerForConditionalGeneration(config.thinker_config)
    model = model.to(torch.bfloat16).to_empty(device="cpu")
    adapter: ModelAdapter = adapter_for(tiny)
    noise = torch.Generator().manual_seed(0)
    tensors = {}
    for name, parameter in model.named_parameters():
        parameter.data.normal_(generator=noise)
        tensors |= dict(adapter.checkpoint_tensors(name, parameter.detach()))
    path.mkdir()
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(path)
    return sum(tensor.nbytes for tensor in tensors.values())


def anonymous() -> int:
    """Bytes of this process that no file backs."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise LookupError("RssAnon")


def load_and_watch(rank: int, directory: Path) -> None:
    adapter = adapter_for(directory / "mixture")
    with divided():
        adapter.load(directory / "tiny", torch.bfloat16)  # what is imported and allocated once
    before, peak, done = anonymous(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    with divided(torch.bfloat16):
        model = adapter.load(directory / "mixture", torch.bfloat16)
    done.set()
    watcher.join()
    torch.save((peak - before, anonymous() - before), directory / f"{rank}.pt")
    del model


def test_no_rank_holds_more_than_its_share_and_two_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Tensors of a real model are so large that the allocator gives each back as soon as it is freed; so here.
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", str(MIB // 8))
    FAMILIES["qwen3_omni_moe"](tmp_path / "tiny", 0)
    size = build_mixture(tmp_path / "mixture", tmp_path / "tiny")
    assert size > 0.9 * LAYERS * LAYER
    run_ranks(2, load_and_watch, tmp_path, fresh=True)
    for rank in range(2):
        peak, after = torch.load(tmp_path / f"{rank}.pt")
        print(f"rank {rank}: {size / MIB:.0f} MiB of weights, +{peak / MIB:.0f} MiB at most, +{after / MIB:.0f} after")
        assert 0.9 * size / 2 <= peak <= size / 2 + 2 * LAYER
