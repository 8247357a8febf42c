"""Which position of a sequence is what, for classes that do not find it out by themselves."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

Inputs = dict[str, Any]
TEXT, IMAGE, VIDEO = 0, 1, 2


def complete_inputs(model: PreTrainedModel, complete: Callable[[PreTrainedModel, Inputs], Inputs]) -> None:
    """From now on every call of `model` also gets what `complete` makes of its inputs."""

    def hook(module: PreTrainedModel, arguments: tuple[Any, ...], inputs: Inputs) -> tuple[tuple[Any, ...], Inputs]:
        return arguments, inputs | complete(module, inputs)

    model.register_forward_pre_hook(hook, with_kwargs=True)


def token_kinds(token_ids: Tensor, kinds: Mapping[int, int]) -> Tensor:
    """[B, L] of TEXT, IMAGE and VIDEO. `kinds`: placeholder's token id → kind."""
    out = torch.full_like(token_ids, TEXT)
    for token, kind in kinds.items():
        out[token_ids == token] = kind
    return out


def runs(chosen: Tensor) -> Tensor:
    """[B, L] of the number of the run of chosen positions in its row, −1 for positions that are not chosen."""
    starts = chosen & ~torch.nn.functional.pad(chosen, (1, -1))
    return torch.where(chosen, starts.long().cumsum(1) - 1, -1)


def rotary_positions(
    kinds: Tensor, attention_mask: Tensor, grids: Mapping[int, Iterator[tuple[int, int, int, float]]]
) -> Tensor:
    """Positions in time, height and width, [3, B, L], as Qwen2-VL was trained with (Wang et al. 2024, section 2.1).

    Text counts on in all three. A clip's token is at the number of its frame (times a step), row and column, counted
    from where the text before it ended; text goes on after the largest position so far. `grids`: kind → each clip's
    frames, rows, columns and step, in batch order. Raises ValueError for a clip with another number of tokens.
    """
    positions = torch.zeros(3, *kinds.shape, dtype=torch.long)
    for row, (of_row, mask) in enumerate(zip(kinds.cpu(), attention_mask.cpu().bool(), strict=True)):
        blocks, start = [], 0
        runs_of_row, lengths = torch.unique_consecutive(of_row[mask], return_counts=True)
        for kind, length in zip(runs_of_row.tolist(), lengths.tolist(), strict=True):
            block = torch.arange(length).expand(3, -1) if kind == TEXT else _clip(*next(grids[kind]))
            if block.shape[1] != length:
                raise ValueError(f"row {row}: a clip of {block.shape[1]} tokens stands at {length} placeholders")
            blocks.append(block + start)
            start += int(block.max()) + 1
        positions[:, row, mask] = torch.cat(blocks, dim=1)
    return positions.to(kinds.device)


def _clip(frames: int, rows: int, columns: int, step: float) -> Tensor:
    times = (torch.arange(frames, dtype=torch.float64) * step).long()
    return torch.stack(torch.meshgrid(times, torch.arange(rows), torch.arange(columns), indexing="ij")).flatten(1)
