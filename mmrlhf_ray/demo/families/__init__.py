"""Tiny, untrained models of every family that has an adapter, made by code: no hub, no download."""

from collections.abc import Callable, Mapping
from pathlib import Path

from mmrlhf_ray.demo.families.others import build_gemma3, build_internvl
from mmrlhf_ray.demo.families.qwen import build_qwen2_5_vl, build_qwen3_omni, build_qwen3_vl
from mmrlhf_ray.demo.model import build_model

FAMILIES: Mapping[str, Callable[[Path, int], None]] = {
    "qwen2_5_vl": build_qwen2_5_vl,
    "qwen3_vl": build_qwen3_vl,
    "qwen2_5_omni": build_model,
    "qwen3_omni_moe": build_qwen3_omni,
    "gemma3": build_gemma3,
    "internvl": build_internvl,
}
"""`model_type` → what writes a model of it to a directory: (path, seed)."""

__all__ = ["FAMILIES"]
