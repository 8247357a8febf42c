"""Features of pretrained picture models, whose weights stay as they are."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoImageProcessor, AutoModel

FAMILIES: Mapping[str, Mapping[str, Any]] = {
    "clip": {},
    "siglip": {},
    # Its pooling layer is seldom saved, and would be random.
    "vit": {"add_pooling_layer": False},
    "dinov2": {},
}
"""Model type in `config.json` → options for loading it."""


class _Frozen:
    """A model that is nobody's parameter: not trained, not saved, not sent about, not copied with what holds it."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model.eval().requires_grad_(False)

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Frozen":
        return self

    def __call__(self, pictures: Tensor) -> Tensor:
        """[B, 3, H, W], normalised → [B, hidden]."""
        if next(self.model.parameters()).device != pictures.device:
            self.model.to(pictures.device)
        with torch.no_grad():
            out = self.model(pixel_values=pictures)
        pooled = getattr(out, "pooler_output", None)
        return out.last_hidden_state[:, 0] if pooled is None else pooled


class PretrainedFeatures(nn.Module):
    """[B, C, H, W] in 0…1, C 1 or 3 → [B, size]: the pooled output of a CLIP, SigLIP, ViT or DINOv2 picture tower.

    Pictures are resized (bilinear) and normalised as the checkpoint's `preprocessor_config.json` says.
    """

    def __init__(self, path: str) -> None:
        """path: directory in Hugging Face format. Raises ValueError where it holds no such model."""
        super().__init__()
        self._frozen, side, mean, deviation = _load(path)
        self.side: int = side
        self.size: int = self._frozen.model.config.hidden_size
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(deviation).view(1, 3, 1, 1), persistent=False)

    def forward(self, pictures: Tensor) -> Tensor:
        if pictures.shape[1] == 1:
            pictures = pictures.expand(-1, 3, -1, -1)
        if tuple(pictures.shape[2:]) != (self.side, self.side):
            pictures = functional.interpolate(pictures, (self.side, self.side), mode="bilinear", align_corners=False)
        return self._frozen((pictures - self.mean) / self.deviation)


@cache
def _load(path: str) -> tuple[_Frozen, int, tuple[float, ...], tuple[float, ...]]:
    """The picture tower, its side in pixels, mean and standard deviation of its channels; once per process."""
    if not Path(path).is_dir():
        raise ValueError(f"path={path}: expected a directory in Hugging Face format, found none")
    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True)
        if config.model_type not in FAMILIES:
            raise ValueError(f"path={path}: expected a model of {', '.join(FAMILIES)}, got {config.model_type!r}")
        processor = AutoImageProcessor.from_pretrained(path, local_files_only=True)
        model, info = AutoModel.from_pretrained(
            path, local_files_only=True, dtype=torch.float32, output_loading_info=True, **FAMILIES[config.model_type]
        )
    except OSError as error:
        raise ValueError(f"path={path}: cannot be read: {error}") from error
    if info["missing_keys"]:
        raise ValueError(f"path={path}: the checkpoint lacks {sorted(info['missing_keys'])[0]} and maybe more")
    tower = getattr(model, "vision_model", model)
    return _Frozen(tower), tower.config.image_size, tuple(processor.image_mean), tuple(processor.image_std)
