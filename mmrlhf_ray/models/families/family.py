"""One frozen value describes a model family: what its processor returns and what its weights are called."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin

from mmrlhf_ray.models.families.clips import Tower, show_clips_once
from mmrlhf_ray.models.families.positions import Inputs, complete_inputs
from mmrlhf_ray.models.families.shared import SharedRows, take_lines
from mmrlhf_ray.models.families.weights import load_weights


def _no_options(processor: ProcessorMixin) -> dict[str, Any]:
    return {}


def frames_as_given(processor: ProcessorMixin) -> dict[str, Any]:
    """Options of a processor that would otherwise choose frames itself."""
    return {"videos_kwargs": {"do_sample_frames": False}}


def _as_it_is(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    yield name, tensor


@dataclass(frozen=True, eq=False)
class Family:
    """ModelAdapter of a family that one class of transformers reads. Fields that the Protocol names are explained
    there (`models/adapter.py`)."""

    family: str
    model_class: type[PreTrainedModel]
    placeholders: Mapping[str, str]
    feature_keys: Mapping[str, tuple[str, ...]]
    language_model: str
    parts: Mapping[str, str]
    sampled_as: Mapping[str, str] = field(default_factory=dict)
    video_metadata: bool = False
    least_sound_s: float = 0.0
    towers: Mapping[str, Tower] = field(default_factory=dict)
    shared_rows: SharedRows | None = None
    options: Callable[[ProcessorMixin], dict[str, Any]] = _no_options
    """processor_kwargs()."""
    grids: Mapping[str, str] = field(default_factory=dict)
    """Packed output of the processor → the output with its clips' [frames, height, width]. Of any other output each
    clip has one row."""
    clip_rows: Callable[[ProcessorMixin, Mapping[str, Any], Sequence[str]], list[int]] | None = None
    """Rows of each clip in every output, from (processor, outputs, kinds), where grids do not give them."""
    complete: Callable[[PreTrainedModel, Inputs], Inputs] | None = None
    """Inputs that the class needs and neither makes itself nor misses, from (model, inputs)."""
    released: Mapping[str, str] = field(default_factory=dict)
    """Prefix of a parameter's name in the class → in released checkpoints; the first that fits is replaced."""
    pieces: Callable[[str, Tensor], Iterator[tuple[str, Tensor]]] = _as_it_is
    """A parameter under its released name, as the tensors that checkpoints hold."""

    def load(self, path: Path, dtype: torch.dtype, device_map: str | None = None) -> PreTrainedModel:
        model = load_weights(self.model_class, path, dtype, device_map)
        if self.shared_rows is not None:
            take_lines(model, self.shared_rows, self.complete)
        elif self.complete is not None:
            complete_inputs(model, self.complete)
        show_clips_once(model, self.towers)
        return model.eval()

    def architecture(self, path: Path) -> PreTrainedModel:
        with torch.device("meta"):
            model: PreTrainedModel = self.model_class._from_config(
                self.model_class.config_class.from_pretrained(str(path))
            )
        return model

    def processor_kwargs(self, processor: ProcessorMixin) -> dict[str, Any]:
        return self.options(processor)

    def item_rows(
        self, processor: ProcessorMixin, key: str, outputs: Mapping[str, Any], kinds: Sequence[str]
    ) -> list[int]:
        if self.clip_rows is not None:
            return self.clip_rows(processor, outputs, kinds)
        if key not in self.grids:
            return [1] * len(kinds)
        rows: list[int] = np.asarray(outputs[self.grids[key]]).prod(-1).tolist()
        return rows

    def checkpoint_name(self, name: str) -> str:
        for prefix, released in self.released.items():
            if name.startswith(prefix):
                return released + name.removeprefix(prefix)
        return name

    def checkpoint_tensors(self, name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        return self.pieces(self.checkpoint_name(name), tensor)
