"""Models of published sizes, on the meta device: transformers' configurations by hand, no weights, and the `shape` that
a job file would give for each.

Sizes: config.json of the models' pages (Qwen/Qwen2.5-VL-3B-Instruct, -7B-, -72B-, Qwen/Qwen3-VL-8B-Instruct,
Qwen/Qwen3-Omni-30B-A3B-Instruct).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    PretrainedConfig,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3OmniMoeThinkerForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)
from transformers.models.qwen3_omni_moe.configuration_qwen3_omni_moe import Qwen3OmniMoeThinkerConfig

from mmrlhf_ray.models.headed import HeadedModel, split_head

_ROPE = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
_ROPE3 = _ROPE | {"mrope_section": [24, 20, 20], "mrope_interleaved": True}
_VISION = {"depth": 32, "hidden_size": 1280, "num_heads": 16, "patch_size": 14, "window_size": 112}
_VISION |= {"fullatt_block_indexes": [7, 15, 23, 31], "tokens_per_second": 2}
_VISION3 = {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16, "patch_size": 16}
_VISION3 |= {"num_position_embeddings": 2304, "deepstack_visual_indexes": [8, 16, 24]}
_AUDIO3 = {"d_model": 1280, "encoder_layers": 32, "encoder_attention_heads": 20, "encoder_ffn_dim": 5120}
_AUDIO3 |= {"num_mel_bins": 128, "n_window": 50}


@dataclass(frozen=True)
class RealModel:
    """One of them."""

    kind: type[PreTrainedModel]
    config: type[PretrainedConfig]
    text: Mapping[str, Any]
    vision: Mapping[str, Any]
    more: Mapping[str, Any]
    parameters: float
    """As the model's page counts them, in billions."""

    def build(self, layers: int | None = None) -> HeadedModel:
        """With gradient checkpointing, as the jobs have it; a gradient goes as soon as it is there, as ZeRO takes it.
        `layers`: of the language model, instead of all."""
        text = dict(self.text) | ({"num_hidden_layers": layers} if layers else {})
        vision = {"out_hidden_size": text["hidden_size"], **self.vision}
        config = self.config(text_config=text, vision_config=vision, **self.more)
        with torch.device("meta"):
            whole = self.kind._from_config(config, dtype=torch.bfloat16, attn_implementation="as_on_a_gpu")
        model = HeadedModel(*split_head(whole)).train()
        whole.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        for parameter in model.parameters():
            parameter.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
        return model


def _vl(hidden: int, width: int, layers: int, heads: int, keys: int, words: int, tied: bool, vision: int, count: float):
    text = {"hidden_size": hidden, "intermediate_size": width, "num_hidden_layers": layers, "vocab_size": words}
    text |= {"num_attention_heads": heads, "num_key_value_heads": keys, "rope_parameters": _ROPE}
    tie = {"tie_word_embeddings": tied}
    tower = _VISION | {"intermediate_size": vision}
    return RealModel(Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLConfig, text | tie, tower, tie, count)


def _text3(hidden: int, layers: int, heads: int, keys: int, words: int, **more: Any) -> dict[str, Any]:
    sizes = {"hidden_size": hidden, "num_hidden_layers": layers, "vocab_size": words, "head_dim": 128}
    return sizes | {"num_attention_heads": heads, "num_key_value_heads": keys, "rope_parameters": _ROPE3} | more


MODELS = {
    "3B": _vl(2048, 11008, 36, 16, 2, 151936, True, 3420, 3.75),
    "7B": _vl(3584, 18944, 28, 28, 4, 152064, False, 3420, 8.29),
    "72B": _vl(8192, 29568, 80, 64, 8, 152064, False, 3456, 73.4),
    "8B": RealModel(
        Qwen3VLForConditionalGeneration,
        Qwen3VLConfig,
        _text3(4096, 36, 32, 8, 151936, intermediate_size=12288),
        _VISION3,
        {"tie_word_embeddings": False},
        8.77,
    ),
    "30B-A3B": RealModel(
        Qwen3OmniMoeThinkerForConditionalGeneration,
        Qwen3OmniMoeThinkerConfig,
        _text3(2048, 48, 32, 4, 152064, moe_intermediate_size=768, num_experts=128, num_experts_per_tok=8),
        _VISION3,
        {"audio_config": _AUDIO3 | {"output_dim": 2048}},
        31.7,
    ),
}
