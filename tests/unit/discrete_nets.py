"""Jobs with every kind of modality, small checkpoints, and observations for their networks."""

from pathlib import Path
from typing import Any

import torch
from ray.rllib.core.rl_module.torch import TorchRLModule
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from mmrlhf_ray.config import DiscreteConfig
from mmrlhf_ray.discrete.export import sample_observations
from mmrlhf_ray.discrete.module import module_spec
from tests.unit.discrete_tiny import IMAGE, NOWHERE, TEXT, job

SOUND = {"kind": "audio", "seconds": 0.1, "sampling_rate": 4000, "front_end": {"kind": "log_mel", "bands": 12}}
CLIP = {"kind": "video", "frames": 3, "height": 8, "width": 8}
ALL = {"image": IMAGE, "tone": SOUND | {"encoder": {"kind": "gru"}}, "clip": CLIP, "said": TEXT}
TWO_TASKS = {
    "colour": {"kind": "decide", "classes": ["red", "green", "blue"], **NOWHERE},
    "shade": {"kind": "decide", "classes": ["dark", "light"], **NOWHERE},
}
_TINY = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def net_job(algorithm: str = "ppo", kind: str = "concat", stage: str = "hybrid", **keys: Any) -> DiscreteConfig:
    """A job on every kind of modality."""
    fusion = {"kind": kind, "stage": stage, "width": 8, "hidden": [12], "heads": 2}
    values = {"algorithm": {"kind": algorithm}, "observation": {"modalities": ALL}, "fusion": fusion}
    return job(**(values | keys))


def make(cfg: DiscreteConfig, seed: int = 0) -> TorchRLModule:
    """The job's module as a learner has it."""
    torch.manual_seed(seed)
    spec = module_spec(cfg)
    if cfg.algorithm.kind == "dqn":
        spec.model_config |= {"dueling": True, "double_q": True, "num_atoms": 1, "epsilon": 0.5}
    return spec.build()


def observations(cfg: DiscreteConfig, rows: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random, with every pattern of missing modalities."""
    return {name: torch.as_tensor(array) for name, array in sample_observations(cfg, rows, seed).items()}


def save_clip_checkpoint(path: Path) -> str:
    torch.manual_seed(1)
    vision = _TINY | {"image_size": 16, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=_TINY | {"vocab_size": 99}, vision_config=vision)).save_pretrained(path)
    CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=16).save_pretrained(path)
    return str(path)


def save_vit_checkpoint(path: Path) -> str:
    """A classifier, as most ViTs are: without a pooling layer."""
    torch.manual_seed(2)
    ViTForImageClassification(ViTConfig(**_TINY, image_size=16, patch_size=8)).save_pretrained(path)
    ViTImageProcessor(size=16).save_pretrained(path)
    return str(path)
