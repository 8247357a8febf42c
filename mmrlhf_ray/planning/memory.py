"""How much memory a model takes in each role. Estimates: formulas of the sources named, in bytes per device."""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from mmrlhf_ray.config import EngineConfig, GeneratorConfig, LoRAConfig, ModelConfig, RunConfig
from mmrlhf_ray.errors import ConfigError
from mmrlhf_ray.models import check_trained

GIB = 1024**3
DTYPE_BYTES = {"float32": 4, "bfloat16": 2}

# DeepSpeed's defaults, in elements, which the engine leaves as they are.
_BUCKET = 500_000_000
_LIVE_PARAMETERS = 1_000_000_000
# Rows of float32 logits that token_logprobs holds at a time.
_LOGIT_ROWS = 1024


@dataclass(frozen=True)
class ModelSize:
    """The facts about a model that the formulas need."""

    parameters: int
    hidden_size: int
    num_layers: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    context: int | None = None
    """Most tokens of prompt and response together; None = not known."""

    def kv_bytes_per_token(self, dtype_bytes: int) -> int:
        """Keys and values of one token in all layers."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * dtype_bytes


def model_size(model: ModelConfig) -> ModelSize | None:
    """From the model's directory (config.json, safetensors headers), else from `shape`; None if there is neither.

    Raises ConfigError for a directory that is there but holds no readable model.
    """
    directory = Path(model.path)
    if directory.is_dir():
        return _size_on_disk(directory)
    if model.shape is None:
        return None
    s = model.shape
    return ModelSize(round(s.parameters_b * 1e9), s.hidden_size, s.num_layers, s.num_kv_heads, s.head_dim, s.vocab_size)


def _size_on_disk(directory: Path) -> ModelSize:
    try:
        config = _text_config(directory)
        shapes = _tensor_shapes(directory)
        # Of an omni model only the thinker is trained; the speech parts are not loaded.
        thinker = {name: shape for name, shape in shapes.items() if name.startswith("thinker.")}
        heads = config["num_attention_heads"]
        return ModelSize(
            parameters=sum(prod(shape) for shape in (thinker or shapes).values()),
            hidden_size=config["hidden_size"],
            num_layers=config["num_hidden_layers"],
            num_kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or config["hidden_size"] // heads,
            vocab_size=config["vocab_size"],
            context=config.get("max_position_embeddings"),
        )
    except (OSError, ValueError, KeyError, struct.error) as error:
        raise ConfigError(f"{directory}: not a model directory that can be planned with: {error!r}") from error


def context_tokens(directory: Path) -> int | None:
    """Most tokens of prompt and response together that the model in `directory` is made for; None = not known."""
    found: int | None = _text_config(directory).get("max_position_embeddings")
    return found


def _text_config(directory: Path) -> Mapping[str, Any]:
    """The language model's part of config.json."""
    config: Mapping[str, Any] = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    for nested in ("thinker_config", "text_config"):
        config = config.get(nested, config)
    return config


def _tensor_shapes(directory: Path) -> dict[str, list[int]]:
    """Name → shape from the headers alone: 8 bytes of length, then JSON (the safetensors format)."""
    shapes: dict[str, list[int]] = {}
    for file in sorted(directory.glob("*.safetensors")):
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(length))
        shapes |= {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}
    if not shapes:
        raise FileNotFoundError(f"no .safetensors files in {directory}")
    return shapes


def check_learners(cfg: RunConfig) -> dict[str, int]:
    """Section that says how to learn → how many parameters are trained, of the models whose directory is here.

    Raises ModelError for `lora` and `parts` that do not fit their model.
    """
    return {
        section: check_trained(use.model.path, use.config.parts, use.config.lora, f"{section}.", scalar=use.scalar)
        for section, use in cfg.trained.items()
        if Path(use.model.path).is_dir()
    }


def lora_parameters(size: ModelSize, lora: LoRAConfig) -> int:
    """Parameters of an adapter where only the model's size is known: rank · (in + out) of each of the usual linear
    layers that it names. The width of the feed-forward layers is what accounts for the rest of the parameters."""
    hidden, keys = size.hidden_size, size.num_kv_heads * size.head_dim
    attention = {
        "q_proj": (hidden, hidden),
        "k_proj": (hidden, keys),
        "v_proj": (hidden, keys),
        "o_proj": (hidden, hidden),
    }
    of_layer = (size.parameters - 2 * size.vocab_size * hidden) / size.num_layers - sum(
        a * b for a, b in attention.values()
    )
    width = max(hidden, round(of_layer / (3 * hidden)))
    layers = attention | dict.fromkeys(("gate_proj", "up_proj"), (hidden, width)) | {"down_proj": (width, hidden)}
    named = [layers[name] for name in lora.target_modules if name in layers]
    return size.num_layers * lora.rank * sum(a + b for a, b in named)


def state_bytes(
    parameters: int, dtype: str, engine: EngineConfig, ranks: int, trained: int | None = None
) -> dict[str, float]:
    """Parameters, gradients and optimizer state of one rank. `trained`: parameters that are not frozen; None = all.

    Per parameter in bfloat16: 2 + 2 + 12 bytes (weight, gradient; float32 weight and Adam's two moments); in
    float32: 4 + 4 + 8. ZeRO stage 1 divides the optimizer state by the ranks, stage 2 the gradients too, stage 3
    the parameters too. Source: Rajbhandari et al. 2020, "ZeRO", figure 1.
    """
    trained = parameters if trained is None else trained
    weight = DTYPE_BYTES[dtype]
    optimizer = 12 if dtype == "bfloat16" else 8
    stage = engine.zero_stage
    items = {
        "parameters": parameters * weight / (ranks if stage >= 3 else 1),
        "gradients": trained * weight / (ranks if stage >= 2 else 1),
    }
    if not engine.offload_optimizer:
        items["optimizer"] = trained * optimizer / (ranks if stage >= 1 else 1)
    return items


def activation_bytes(size: ModelSize, dtype: str, tokens: int, checkpointing: bool) -> float:
    """Activations that one forward pass over `tokens` keeps for the backward pass.

    34 · tokens · hidden bytes a layer in 16 bits, attention scores not kept; with checkpointing 2 · tokens · hidden
    a layer, and one layer in full. Source: Korthikanti et al. 2022, "Reducing Activation Recomputation in Large
    Transformer Models", table 2. Twice that in float32. The media towers are not counted.
    """
    unit = tokens * size.hidden_size * DTYPE_BYTES[dtype] / 2
    if checkpointing:
        return 2 * unit * size.num_layers + 34 * unit
    return 34 * unit * size.num_layers


def logits_bytes(size: ModelSize, dtype: str, response_tokens: int, backward: bool) -> float:
    """Logits of the response tokens of a pass, their gradient, and the float32 rows that are alive at a time."""
    copies = 2 if backward else 1
    rows = min(response_tokens, _LOGIT_ROWS)
    return size.vocab_size * (response_tokens * DTYPE_BYTES[dtype] * copies + rows * 4 * copies)


def learner_bytes(
    size: ModelSize,
    dtype: str,
    engine: EngineConfig,
    ranks: int,
    response_tokens: int,
    vocabulary_head: bool,
    trained: int | None = None,
) -> dict[str, float]:
    """Everything of one learner rank. `response_tokens` in one pass of `engine.micro_batch_tokens`; `trained` as in
    state_bytes()."""
    weight = DTYPE_BYTES[dtype]
    gathered = min(size.parameters, _LIVE_PARAMETERS if engine.zero_stage == 3 else _BUCKET)
    items = state_bytes(size.parameters, dtype, engine, ranks, trained)
    items["buffers"] = weight * (gathered + min(size.parameters if trained is None else trained, _BUCKET))
    items["activations"] = activation_bytes(
        size, dtype, engine.micro_batch_tokens, checkpointing=engine.gradient_checkpointing
    )
    if vocabulary_head:
        items["logits"] = logits_bytes(size, dtype, response_tokens, backward=True)
    return items


def server_bytes(
    size: ModelSize,
    dtype: str,
    tokens: int,
    response_tokens: int,
    devices: int,
    vocabulary_head: bool,
    gathers: bool = False,
) -> dict[str, float]:
    """A scorer or reference server: weights divided over its devices, and one layer's activations. `gathers`: the
    devices are ranks under ZeRO-3, each of which gathers the weights that it computes with."""
    weight = DTYPE_BYTES[dtype]
    items = {
        "parameters": size.parameters * weight / devices,
        "activations": 34 * tokens * size.hidden_size * weight / 2,
    }
    if gathers:
        items["buffers"] = weight * min(size.parameters, _LIVE_PARAMETERS)
    if vocabulary_head:
        items["logits"] = logits_bytes(size, dtype, response_tokens, backward=False)
    return items


def generator_bytes(
    size: ModelSize, dtype: str, generator: GeneratorConfig, gpu_bytes: float | None
) -> dict[str, float]:
    """vLLM: weights over the tensor-parallel GPUs, and the KV cache that fills what is left of its share.

    `gpu_bytes` None = on the CPU, where the cache has the size that the configuration says.
    """
    weights = size.parameters * DTYPE_BYTES[dtype] / generator.tensor_parallel_size
    if gpu_bytes is None:
        return {"parameters": weights, "kv_cache": generator.cpu_kv_cache_gb * GIB}
    # A tenth of the weights for the profiling pass; vLLM measures it itself when it starts.
    room = gpu_bytes * generator.gpu_memory_utilization - 1.1 * weights
    return {"parameters": weights, "activations": 0.1 * weights, "kv_cache": max(0.0, room)}


def kv_sequences(
    size: ModelSize, dtype: str, generator: GeneratorConfig, cache_bytes: float, tokens_per_sequence: int
) -> int:
    """Sequences of full length that one generator's cache holds at once."""
    # Each GPU holds the heads divided by the tensor-parallel size, but at least one.
    shards = min(generator.tensor_parallel_size, size.num_kv_heads)
    per_token = size.kv_bytes_per_token(DTYPE_BYTES[dtype]) / shards
    return int(cache_bytes / (per_token * tokens_per_sequence))
