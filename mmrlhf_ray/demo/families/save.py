"""An untrained model as the directory that its family's releases are."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import GenerationConfig, PreTrainedModel, ProcessorMixin

from mmrlhf_ray.demo.families.tokens import END, PAD


def seeded(make: Callable[[], PreTrainedModel], seed: int) -> PreTrainedModel:
    """`make()` with weights drawn from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def save(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    path: Path,
    released: Mapping[str, str] | None = None,
    ends: Sequence[str] = (END,),
) -> None:
    """Write weights, processor and generation defaults. `released`: prefix of the names that the class writes → the
    one of the family's releases, where vLLM knows only that. `ends`: tokens that end a response."""
    model.generation_config = generation(processor, ends)
    model.save_pretrained(path)
    processor.save_pretrained(path)
    for prefix, name in (released or {}).items():
        rename_weights(path, prefix, name)


def rename_weights(path: Path, prefix: str, released: str) -> None:
    """Replace the prefix of names in the directory's weights."""
    file = path / "model.safetensors"
    tensors = load_file(file)
    renamed = {released + n.removeprefix(prefix) if n.startswith(prefix) else n: t for n, t in tensors.items()}
    save_file(renamed, file, metadata={"format": "pt"})


def generation(processor: ProcessorMixin, ends: Sequence[str] = (END,)) -> GenerationConfig:
    """Responses end with the template's closing token, and with other `ends`."""
    ids = processor.tokenizer.get_vocab()
    eos = [ids[end] for end in ends]
    return GenerationConfig(eos_token_id=eos if len(eos) > 1 else eos[0], pad_token_id=ids[PAD])
