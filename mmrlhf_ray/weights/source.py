"""A learner's weights as vLLM's weight transfer asks for them."""

from collections.abc import Iterator

import torch
from torch import Tensor
from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource

from mmrlhf_ray.models import ModelAdapter, checkpoint_tensors
from mmrlhf_ray.training.engine import TrainEngine
from mmrlhf_ray.weights.buckets import checksum


class LearnerSource(WeightSource):
    """All weights in checkpoint format, gathered group by group; a collective of all ranks, of which the first alone
    gets tensors. They may be looked at until the next one is asked for."""

    def __init__(self, engine: TrainEngine, adapter: ModelAdapter, group_bytes: int, device: torch.device):
        """group_bytes: at most as many are gathered at a time. device: where tensors are wanted."""
        self._engine, self._adapter, self._group_bytes, self._device = engine, adapter, group_bytes, device
        self.sums: dict[str, int] = {}
        """Name → checksum of what was gathered in the last pass."""
        self.nbytes = 0
        """Of that."""
        self._pass: Iterator[tuple[str, Tensor]] | None = None

    def metadata(self) -> list[ParamMeta]:
        """Of what a pass gives, in its order; nothing is gathered."""
        return [
            ParamMeta(name, tensor.dtype, tuple(tensor.shape))
            for weight in self._engine.outlines()
            for name, tensor in checkpoint_tensors(self._adapter, *weight)
        ]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        self._pass = self._tensors()
        return self._pass

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        self.sums, self.nbytes = {}, 0
        for group in self._engine.buckets(self._group_bytes, device=self._device):
            for weight in group:
                for name, tensor in checkpoint_tensors(self._adapter, *weight):
                    self.sums[name] = checksum(tensor)
                    self.nbytes += tensor.nbytes
                    yield name, tensor

    def end_pass(self) -> None:
        """Go through what is left of a pass, or all of it where none was begun: the other ranks wait in its gathers."""
        for _ in self._pass or self:
            pass
        self._pass = None
