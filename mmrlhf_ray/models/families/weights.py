"""Weights of a directory into a class of transformers, which fills what it does not find with random numbers."""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel

from mmrlhf_ray.errors import ModelError
from mmrlhf_ray.models.families.divided import WeightFiles, current_division, empty_model, fill, plan
from mmrlhf_ray.models.scalar_head import SCALAR_HEAD_FILE

_NAMED = 5
_HEAD = "lm_head."


def load_weights(
    model_class: type[PreTrainedModel], path: Path, dtype: torch.dtype, device_map: str | None
) -> PreTrainedModel:
    """`model_class.from_pretrained()`, or its equal for parameters that are divided among ranks. Raises ModelError,
    which names them, for weights that are missing, of another shape than config.json says, or unreadable. A reward
    model may lack the vocabulary head, which nothing reads."""
    division = current_division()
    try:
        if division is None:
            model, found = model_class.from_pretrained(
                str(path), dtype=dtype, device_map=device_map, output_loading_info=True, ignore_mismatched_sizes=True
            )
            _check_found(path, type(model), found["missing_keys"], found["mismatched_keys"])
            return model
        with ExitStack() as stack:
            files = WeightFiles(path, stack)
            model = empty_model(model_class, path, dtype)
            reading = plan(model, files)
            _check_found(path, model_class, reading.missing, reading.mismatched)
            fill(model, reading, files, division)
            return model
    except (SafetensorError, OSError) as error:
        said = " ".join(str(error).split())[:300]
        raise ModelError(f"{path}: its weights cannot be read: {said}; copy the directory again") from error


def _check_found(
    path: Path,
    model_class: type[PreTrainedModel],
    missing: Iterable[str],
    mismatched: Iterable[tuple[str, Sequence[int], Sequence[int]]],
) -> None:
    """`mismatched`: name, shape in the files, shape in the class."""
    missing = sorted(missing)
    if (Path(path) / SCALAR_HEAD_FILE).is_file():
        missing = [name for name in missing if not name.startswith(_HEAD)]
    if missing:
        raise ModelError(
            f"{path}: its files lack {len(missing)} weights that {model_class.__name__} needs: {_some(missing)}; copy "
            "all files of the model, or export it again"
        )
    shapes = [f"{name} is {list(came)}, not {list(wanted)}" for name, came, wanted in mismatched]
    if shapes:
        raise ModelError(
            f"{path}: {len(shapes)} weights have another shape than config.json says: {_some(sorted(shapes))}; copy "
            "weights and config.json of the same model"
        )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
