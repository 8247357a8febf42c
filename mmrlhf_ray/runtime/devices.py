"""What this process has on its device, and when it is to have it there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Phase = Literal["generate", "judge", "learn", "push"]
"""Of a step in which roles take turns on devices."""
AT_WORK: Mapping[Phase, tuple[str, ...]] = {
    "generate": ("generator",),
    "judge": ("scorer", "reference", "policy", "critic"),
    "learn": ("policy", "critic"),
    "push": ("policy", "generator"),
}
"""Who needs the device in which phase. In `push` a generator has its weights there alone, without room for keys and
values."""


@dataclass(frozen=True)
class Held:
    """An actor's tensors on its device."""

    nbytes: int
    device_bytes: int | None
    """That the device has; None = host memory, of which nobody has a device's worth."""


def held(device: "torch.device", nbytes: int) -> Held:
    """What is there now. `nbytes`: what the caller counts, where the device does not count itself."""
    if device.type != "cuda":
        return Held(nbytes, None)
    import torch

    torch.cuda.empty_cache()  # what only this process could use again is in the way of the others
    return Held(torch.cuda.memory_reserved(device), torch.cuda.get_device_properties(device).total_memory)


def tensor_bytes(module: "torch.nn.Module") -> int:
    """Of its parameters and buffers."""
    return sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()))


def merged(parts: Sequence[Held]) -> Held:
    """Of several models in one process: on a GPU the last one's count has all of them."""
    counts_itself = parts[-1].device_bytes is not None
    return parts[-1] if counts_itself else Held(sum(part.nbytes for part in parts), None)
