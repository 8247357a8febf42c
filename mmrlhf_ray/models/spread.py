"""A line of tokens that is spread over ranks: each has its part of the positions, and all of them the values that are
read."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Spread:
    """This rank's place among those that a line is spread over. All of them are given the same rows and make the same
    loss of the same values; each one's gradients are those of its own positions, so that the sum over ranks is the
    gradient."""

    group: dist.ProcessGroup
    rank: int
    ranks: int

    def part(self, width: int) -> slice:
        """The positions of a line that are this rank's. `width`: a multiple of `ranks`."""
        own = width // self.ranks
        return slice(self.rank * own, (self.rank + 1) * own)

    def joined(self, values: Tensor, own: Tensor) -> Tensor:
        """[N, ·] of all ranks' values. `values` [n, ·]: this rank's, at the places that `own` [N] marks."""
        joined: Tensor = _Joined.apply(values, own, self.group)
        return joined


class _Joined(torch.autograd.Function):
    """Of the gradient, which is the same on all ranks, each takes what belongs to its own values."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, own: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.save_for_backward(own)
        whole = values.new_zeros(len(own), *values.shape[1:])
        whole[own] = values
        dist.all_reduce(whole, group=group)
        return whole

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (own,) = ctx.saved_tensors
        return gradient[own], None, None
