"""Counts the bytes that are alive while torch works, as the planner would have to know them.

On meta tensors, which have a size and no contents: a pass of a 72B model takes seconds here.
"""

import weakref
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers.integrations.sdpa_attention import repeat_kv
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


class Ledger(TorchDispatchMode):
    """Within the block, every storage that an operation makes is counted from then until it is freed."""

    def __init__(self, not_counted: Iterable[Tensor], given: Iterable[Tensor]):
        """`not_counted`: parameters and buffers. `given`: inputs, which count from the start."""
        super().__init__()
        self.live = self.peak = 0
        self._storages: dict[int, weakref.ref] = {}
        for tensor in not_counted:
            self._add(tensor.untyped_storage(), 0)
        for tensor in given:
            self._add(tensor.untyped_storage(), tensor.untyped_storage().nbytes())

    def _add(self, storage: torch.UntypedStorage, size: int) -> None:
        key = id(storage)
        if key in self._storages:  # a view
            return

        def freed(_: object) -> None:
            self.live -= size
            del self._storages[key]

        self._storages[key] = weakref.ref(storage, freed)
        self.live += size
        self.peak = max(self.peak, self.live)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                storage = value.untyped_storage()
                self._add(storage, storage.nbytes())
        return result


def _attention(module, query, key, value, attention_mask, **options):
    """What transformers' SDPA comes to on a GPU, where meta tensors would take the path for machines without one: with
    a mask keys and values are repeated for every head and the mask becomes a bias."""
    heads = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, heads), repeat_kv(value, heads)
    if attention_mask is None:
        output = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value)[0]
    else:
        seen, hidden = (torch.empty((), dtype=query.dtype, device=query.device) for _ in range(2))
        bias = torch.where(attention_mask, seen, hidden).expand(len(query), query.shape[1], -1, -1)
        output = torch.ops.aten._scaled_dot_product_efficient_attention(query, key, value, bias, True)[0]
    return output.transpose(1, 2).contiguous(), None


ALL_ATTENTION_FUNCTIONS.register("as_on_a_gpu", _attention)
