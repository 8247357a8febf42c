"""The files of DeepSpeed's checkpoints: tensors and plain values, for the ranks that wrote them or for any others."""

import os
import pickle
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from deepspeed.checkpoint import ds_to_universal
from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine
from deepspeed.runtime.fp16.loss_scaler import LossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum
from deepspeed.utils.tensor_fragment import fragment_address

from mmrlhf_ray.errors import RunError

_WEIGHTS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
torch.serialization.add_safe_globals([LossScaler, ZeroStageEnum, fragment_address])


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
        with plain_values(path):
            return torch.load(path, map_location=map_location, weights_only=True)


@contextmanager
def plain_values(what: str | Path) -> Iterator[None]:
    """Within the block whatever torch.load() reads may hold tensors and plain values alone, also where DeepSpeed asks
    for more than that. Raises RunError, which names `what`, where there is more in a file."""
    before = os.environ.get(_WEIGHTS_ONLY)
    os.environ[_WEIGHTS_ONLY] = "1"
    try:
        yield
    except pickle.UnpicklingError as error:
        raise RunError(
            f"{what}: refused, since it holds more than tensors and plain values; a checkpoint of ours does not, "
            "so something else wrote it"
        ) from error
    finally:
        if before is None:
            del os.environ[_WEIGHTS_ONLY]
        else:
            os.environ[_WEIGHTS_ONLY] = before


def convert(source: Path, target: Path) -> None:
    """Write the state in `source`, of ZeRO 1 to 3, to `target` in DeepSpeed's universal format: of each parameter its
    master copy and its moments in files of their own, which any number of ranks can read. Raises RunError as
    PlainFiles.load()."""
    settings = Namespace(
        input_folder=str(source),
        output_folder=str(target),
        num_extract_workers=1,  # in this process
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,  # ranks were divided by data alone
    )
    with plain_values(source), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        ds_to_universal.main(settings)
