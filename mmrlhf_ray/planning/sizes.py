"""The facts about a model that plans need: from its directory, or from the `shape` of a configuration."""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from mmrlhf_ray.config import LearnerConfig, LoRAConfig, ModelConfig, RunConfig
from mmrlhf_ray.config.shapes import ExpertsShape, ModelShape, TowerShape
from mmrlhf_ray.errors import ConfigError
from mmrlhf_ray.models import check_trained

GIB = 1024**3
DTYPE_BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class ModelSize:
    """A language model and its media towers."""

    parameters: int
    """Towers counted."""
    hidden_size: int
    num_layers: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    context: int | None = None
    """Most tokens of prompt and response together; None = not known."""
    num_heads: int | None = None
    """None = hidden_size / head_dim."""
    intermediate_size: int | None = None
    """None = what accounts for the other parameters of a dense model."""
    experts: ExpertsShape | None = None
    qk_norm: bool = False
    tied: bool = False
    towers: Mapping[str, TowerShape] = field(default_factory=dict)
    """Vision and audio."""

    @property
    def query_width(self) -> int:
        """Of all heads together."""
        return (self.num_heads or self.hidden_size // self.head_dim) * self.head_dim

    @property
    def key_width(self) -> int:
        return self.num_kv_heads * self.head_dim

    @property
    def width(self) -> int:
        """Of a dense feed-forward layer."""
        if self.intermediate_size is not None:
            return self.intermediate_size
        vocabularies = (1 if self.tied else 2) * self.vocab_size * self.hidden_size
        attention = 2 * self.hidden_size * (self.query_width + self.key_width)
        rest = (self.parameters - vocabularies) / self.num_layers - attention
        return max(self.hidden_size, round(rest / (3 * self.hidden_size)))

    @property
    def active_parameters(self) -> int:
        """Parameters that one token is multiplied with; of a mixture of experts those that it does not go through are
        left out, and so is the embedding, which is looked up."""
        idle = 0
        if self.experts is not None:
            expert = 3 * self.hidden_size * self.experts.intermediate_size
            idle = self.num_layers * (self.experts.count - self.experts.per_token) * expert
        embedding = 0 if self.tied else self.vocab_size * self.hidden_size
        return max(1, self.parameters - idle - embedding)

    @property
    def tower_parameters(self) -> int:
        """About as many as the layers of all towers have."""
        return sum(
            t.num_layers * (4 * t.hidden_size**2 + (3 if t.gated else 2) * t.hidden_size * t.intermediate_size)
            for t in self.towers.values()
        )

    @property
    def layer_parameters(self) -> int:
        """About as many as one layer of the language model has, all experts counted."""
        return self.parameters // self.num_layers

    def kv_bytes_per_token(self, dtype_bytes: int) -> int:
        """Keys and values of one token in all layers."""
        return 2 * self.num_layers * self.key_width * dtype_bytes


def model_size(model: ModelConfig) -> ModelSize | None:
    """From the model's directory (config.json, safetensors headers), else from `shape`; None if there is neither.

    Raises ConfigError for a directory that is there but holds no readable model.
    """
    directory = Path(model.path)
    if directory.is_dir():
        return _size_on_disk(directory)
    return None if model.shape is None else size_of_shape(model.shape)


def size_of_shape(s: ModelShape) -> ModelSize:
    """The same facts, as a configuration gives them."""
    towers = {name: tower for name, tower in (("vision", s.vision), ("audio", s.audio)) if tower is not None}
    return ModelSize(
        parameters=round(s.parameters_b * 1e9),
        hidden_size=s.hidden_size,
        num_layers=s.num_layers,
        num_kv_heads=s.num_kv_heads,
        head_dim=s.head_dim,
        vocab_size=s.vocab_size,
        num_heads=s.num_heads,
        intermediate_size=s.intermediate_size,
        experts=s.experts,
        qk_norm=s.qk_norm,
        tied=s.tied,
        towers=towers,
    )


def _size_on_disk(directory: Path) -> ModelSize:
    try:
        outer, config = _configs(directory)
        shapes = _tensor_shapes(directory)
        # Of an omni model only the thinker is trained; the speech parts are not loaded.
        shapes = {name: shape for name, shape in shapes.items() if name.startswith("thinker.")} or shapes
        heads = config["num_attention_heads"]
        return ModelSize(
            parameters=sum(prod(shape) for shape in shapes.values()),
            hidden_size=config["hidden_size"],
            num_layers=config["num_hidden_layers"],
            num_kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or config["hidden_size"] // heads,
            vocab_size=config["vocab_size"],
            context=config.get("max_position_embeddings"),
            num_heads=heads,
            intermediate_size=config.get("intermediate_size"),
            experts=_experts(config),
            qk_norm=any(".q_norm." in name for name in shapes),
            tied=not any("lm_head." in name for name in shapes),
            towers=_towers(outer),
        )
    except (OSError, ValueError, KeyError, struct.error) as error:
        raise ConfigError(f"{directory}: not a model directory that can be planned with: {error!r}") from error


def context_tokens(directory: Path) -> int | None:
    """Most tokens of prompt and response together that the model in `directory` is made for; None = not known."""
    found: int | None = text_config(directory).get("max_position_embeddings")
    return found


def text_config(directory: Path) -> Mapping[str, Any]:
    """The language model's part of config.json."""
    return _configs(directory)[1]


def _configs(directory: Path) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Of config.json: the part that has the towers, and the language model's."""
    outer: Mapping[str, Any] = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    outer = outer.get("thinker_config", outer)
    return outer, outer.get("text_config", outer)


def _experts(config: Mapping[str, Any]) -> ExpertsShape | None:
    count = config.get("num_experts") or config.get("num_local_experts")
    if not count:
        return None
    width = config.get("moe_intermediate_size") or config["intermediate_size"]
    return ExpertsShape(count=count, per_token=config["num_experts_per_tok"], intermediate_size=width)


def _towers(config: Mapping[str, Any]) -> dict[str, TowerShape]:
    """Of the names that transformers' configurations use; a tower without them is left out."""
    found = {}
    vision, audio = config.get("vision_config"), config.get("audio_config")
    if vision and (layers := vision.get("depth") or vision.get("num_hidden_layers")):
        patch, frames = _first(vision.get("patch_size", 14)), vision.get("temporal_patch_size", 1)
        found["vision"] = TowerShape(
            num_layers=layers,
            hidden_size=vision["hidden_size"],
            intermediate_size=vision["intermediate_size"],
            gated=vision.get("hidden_act") == "silu",
            positions_per_token=_patches_per_token(config, vision, patch),
            input_values=3 * frames * patch**2,
            deepstack=len(vision.get("deepstack_visual_indexes") or ()),
        )
    if audio and (layers := audio.get("encoder_layers")):
        wide, mels = audio["d_model"], audio.get("num_mel_bins", 128)
        channels = audio.get("downsample_hidden_size")
        # Each convolution halves time, and those over both time and frequency halve that too; the activation of each
        # is kept as well. Without them a token is two steps of two frames, with them one step of eight.
        stem = 2 * channels * (mels // 2 * 4 + mels // 4 * 2 + mels // 8) if channels else 2 * 3 * wide
        found["audio"] = TowerShape(
            num_layers=layers,
            hidden_size=wide,
            intermediate_size=audio["encoder_ffn_dim"],
            positions_per_token=1 if channels else 2,
            input_values=mels * (8 if channels else 2),
            stem_values=stem,
        )
    return found


def _patches_per_token(config: Mapping[str, Any], vision: Mapping[str, Any], patch: int) -> int:
    if "spatial_merge_size" in vision:
        return int(vision["spatial_merge_size"] ** 2)
    if "mm_tokens_per_image" in config:
        return int((_first(vision["image_size"]) // patch) ** 2 // config["mm_tokens_per_image"])
    if "downsample_ratio" in config:
        return round(1 / config["downsample_ratio"] ** 2)
    return int(config.get("spatial_merge_size", 1) ** 2)


def _first(size: int | list[int]) -> int:
    return size if isinstance(size, int) else size[0]


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
    layers that it names. Experts are stacked, not linear layers, and get none."""
    hidden, keys, queries = size.hidden_size, size.key_width, size.query_width
    layers = {
        "q_proj": (hidden, queries),
        "k_proj": (hidden, keys),
        "v_proj": (hidden, keys),
        "o_proj": (queries, hidden),
    }
    if size.experts is None:
        layers |= dict.fromkeys(("gate_proj", "up_proj"), (hidden, size.width)) | {"down_proj": (size.width, hidden)}
    named = [layers[name] for name in lora.target_modules if name in layers]
    return size.num_layers * lora.rank * sum(a + b for a, b in named)


def trained_parameters(size: ModelSize, config: LearnerConfig) -> int:
    """As far as the model's size alone says it."""
    if config.sent_adapter is not None:
        return lora_parameters(size, config.sent_adapter)
    return size.parameters if config.parts.vision_tower.train else size.parameters - size.tower_parameters
