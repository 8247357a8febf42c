"""Weights of a directory into a class of transformers, which fills what it does not find with random numbers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel

from mmrlhf_ray.errors import ModelError
from mmrlhf_ray.models.scalar_head import SCALAR_HEAD_FILE

_NAMED = 5
_HEAD = "lm_head."


def load_weights(model_class: Any, path: Path, dtype: torch.dtype, device_map: str | None) -> PreTrainedModel:
    """`model_class.from_pretrained()`. Raises ModelError, which names them, for weights that are missing, of another
    shape than config.json says, or unreadable. A reward model may lack the vocabulary head, which nothing reads."""
    try:
        model, found = model_class.from_pretrained(
            str(path), dtype=dtype, device_map=device_map, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except (SafetensorError, OSError) as error:
        said = " ".join(str(error).split())[:300]
        raise ModelError(f"{path}: its weights cannot be read: {said}; copy the directory again") from error
    missing = sorted(found["missing_keys"])
    if (Path(path) / SCALAR_HEAD_FILE).is_file():
        missing = [name for name in missing if not name.startswith(_HEAD)]
    if missing:
        raise ModelError(
            f"{path}: its files lack {len(missing)} weights that {type(model).__name__} needs: {_some(missing)}; copy "
            "all files of the model, or export it again"
        )
    shapes = [f"{name} is {list(came)}, not {list(wanted)}" for name, came, wanted in found["mismatched_keys"]]
    if shapes:
        raise ModelError(
            f"{path}: {len(shapes)} weights have another shape than config.json says: {_some(sorted(shapes))}; copy "
            "weights and config.json of the same model"
        )
    return model


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
