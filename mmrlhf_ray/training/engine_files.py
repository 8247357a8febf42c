"""The files of DeepSpeed's checkpoints: tensors and plain values."""

import pickle
from pathlib import Path
from typing import Any

import torch
from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine
from deepspeed.runtime.fp16.loss_scaler import LossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum
from deepspeed.utils.tensor_fragment import fragment_address

from mmrlhf_ray.errors import RunError


class PlainFiles(TorchCheckpointEngine):
    """Checkpoint files of tensors and plain values: reading one runs no code, whoever wrote it."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[Path] = []
        """What this rank wrote, since a caller last cleared this."""

    def save(self, state_dict: Any, path: str) -> None:
        """Write a file."""
        super().save(state_dict, path)
        self.written.append(Path(path))

    def load(self, path: str, map_location: Any = None) -> Any:
        """The contents. Raises RunError where there is more in it."""
        try:
            with torch.serialization.safe_globals([LossScaler, ZeroStageEnum, fragment_address]):
                return torch.load(path, map_location=map_location, weights_only=True)
        except pickle.UnpicklingError as error:
            raise RunError(
                f"{path}: refused, since it holds more than tensors and plain values; a checkpoint of ours does not, "
                "so something else wrote it"
            ) from error
