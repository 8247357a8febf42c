"""Trained weights back into Hugging Face directories."""

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from mmrlhf_ray.config.parts import LoRAConfig
from mmrlhf_ray.disk import writing
from mmrlhf_ray.models.adapter import ModelAdapter
from mmrlhf_ray.models.headed import HEAD, checkpoint_name, checkpoint_tensors
from mmrlhf_ray.models.lora import peft_config
from mmrlhf_ray.models.scalar_head import SCALAR_HEAD_FILE, ScalarHead, write_scalar_head
from mmrlhf_ray.models.verdict import VERDICT_FILE

_FILES = (
    "config.json",
    "generation_config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tekken.json",
    "*.model",
    "*.tiktoken",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/*.jinja",
    "LICENSE*",
    "NOTICE*",
    VERDICT_FILE,
)
"""Of a model's directory, what another model with other weights needs too, as patterns."""

ADAPTER_DIR = "adapter"
"""Next to an exported model: the trained weights alone."""

SHARD_BYTES = 5 * 10**9
"""The most that one file of an exported model holds, as released models have it."""


def export_model(
    adapter: ModelAdapter,
    source: Path,
    target: Path,
    tensors: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]],
    *,
    scalar: bool,
    layout: ScalarHead | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a HeadedModel's parameters to `target`, with what `source` has of a model's other files: processor, chat
    template, generation config, licence. A scalar head goes into separate files with its `layout` (one output unless
    given), a vocabulary head where the family keeps it. config.json says the dtype of the tensors that are written.

    `tensors` may come one by one: no more of them are held than a file of at most `shard_bytes` takes. `target` appears
    complete or not at all; an earlier export is replaced.
    """
    pairs = tensors.items() if isinstance(tensors, Mapping) else tensors
    own_head: dict[str, Tensor] = {}
    sizes = Counter[torch.dtype]()

    def named() -> Iterator[tuple[str, Tensor]]:
        for name, tensor in pairs:
            if tensor.is_floating_point():
                sizes[tensor.dtype] += tensor.numel()
            if scalar and name.startswith(HEAD):
                own_head[name] = tensor.contiguous()
            else:
                yield from checkpoint_tensors(adapter, name, tensor)

    with _published(target) as fresh:
        fresh.mkdir()
        _copy_files(source, fresh)
        _write_weights(fresh, named(), shard_bytes)
        _write_dtype(fresh / "config.json", sizes)
        if scalar:
            _write_head(fresh, own_head, layout)


@contextmanager
def written_model(
    source: Path, target: Path, tensors: Iterable[tuple[str, Tensor]], shard_bytes: int = SHARD_BYTES
) -> Iterator[Path]:
    """`tensors` by their names in a directory, as export_model() writes them with the other files of `source`. The
    block may add files to the directory that it is given, which takes the place of `target` afterwards."""
    with _published(target) as fresh:
        fresh.mkdir()
        _copy_files(source, fresh)
        _write_weights(fresh, tensors, shard_bytes)
        yield fresh


def export_lora(
    adapter: ModelAdapter,
    source: Path,
    target: Path,
    config: LoRAConfig,
    tensors: Mapping[str, Tensor],
    *,
    layout: ScalarHead | None = None,
) -> None:
    """Write the trained_weights() of a HeadedModel to `target` as peft does: an adapter to the model in `source`. A
    scalar head lies next to it, as in export_model(), and `target` is replaced likewise.

    peft looks for the names of transformers' class and vLLM for the checkpoint's. Neither minds the other's, so the
    file has both.
    """
    own_head = {n: t.contiguous() for n, t in tensors.items() if n.startswith(HEAD)}
    both = {}
    for name, tensor in tensors.items():
        if name not in own_head:
            for known_as in (name.removeprefix("backbone."), checkpoint_name(adapter, name)):
                both[f"base_model.model.{known_as}"] = tensor.clone().contiguous()
    modules = sorted({n.removeprefix("backbone.").partition(".lora_")[0] for n in tensors if n not in own_head})
    described = peft_config(adapter, config, modules, str(source))
    described.inference_mode = True
    with _published(target) as fresh:
        fresh.mkdir()
        save_file(both, fresh / "adapter_model.safetensors", metadata={"format": "pt"})
        described.save_pretrained(str(fresh))
        if own_head:
            _write_head(fresh, own_head, layout)


def _write_weights(directory: Path, tensors: Iterable[tuple[str, Tensor]], shard_bytes: int) -> None:
    """`model.safetensors`, or where that would be larger several files and their index, by the hub's names."""
    shards: list[dict[str, int]] = []
    for shard in _shards(tensors, shard_bytes):
        save_file(shard, directory / f"{len(shards)}.part", metadata={"format": "pt"})
        shards.append({name: tensor.nbytes for name, tensor in shard.items()})
    files = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    if len(shards) == 1:
        files = ["model.safetensors"]
    for number, file in enumerate(files):
        (directory / f"{number}.part").rename(directory / file)
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": sum(size for shard in shards for size in shard.values())},
            "weight_map": {name: file for file, shard in zip(files, shards, strict=True) for name in shard},
        }
        (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _shards(tensors: Iterable[tuple[str, Tensor]], shard_bytes: int) -> Iterator[dict[str, Tensor]]:
    """In groups of at most `shard_bytes`; a larger tensor is a group by itself."""
    shard: dict[str, Tensor] = {}
    size = 0
    for name, tensor in tensors:
        if shard and size + tensor.nbytes > shard_bytes:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor.contiguous()
        size += tensor.nbytes
    if shard:
        yield shard


def _write_head(directory: Path, tensors: Mapping[str, Tensor], layout: ScalarHead | None) -> None:
    save_file({name.removeprefix(HEAD): tensor for name, tensor in tensors.items()}, directory / SCALAR_HEAD_FILE)
    write_scalar_head(directory, layout or ScalarHead())


def _copy_files(source: Path, fresh: Path) -> None:
    for pattern in _FILES:
        for file in filter(Path.is_file, source.glob(pattern)):
            copy = fresh / file.relative_to(source)
            copy.parent.mkdir(exist_ok=True)
            shutil.copy2(file, copy)


def _write_dtype(file: Path, sizes: "Counter[torch.dtype]") -> None:
    """Name the tensors' dtype where config.json names one, in nested configurations too; leave it as it is if it fits.
    `sizes`: numbers of each dtype, of which the most decide."""
    written = json.loads(file.read_text(encoding="utf-8"))
    for dtype in (str(dtype).removeprefix("torch.") for dtype, _ in sizes.most_common(1)):
        said = _with_dtype(written, dtype)
        if "torch_dtype" not in said:
            said["dtype"] = dtype
        if said != written:
            file.write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")


def _with_dtype(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    changed = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            value = _with_dtype(value, dtype)
        changed[key] = dtype if key in ("dtype", "torch_dtype") and isinstance(value, str) else value
    return changed


@contextmanager
def _published(target: Path) -> Iterator[Path]:
    """A new directory, which the block makes, to take the place of `target` afterwards. A block that fails leaves
    nothing of it; RunFailed says where there was no room."""
    fresh, old = (target.with_name(f".{target.name}.{suffix}") for suffix in ("new", "old"))
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.parent.mkdir(parents=True, exist_ok=True)
    try:
        with writing(target):
            yield fresh
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    fresh.rename(target)
    shutil.rmtree(old, ignore_errors=True)
