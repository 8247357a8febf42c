"""Tokens of rows of different lengths in one flat tensor: those of row 0, then those of row 1, and so on."""

import torch
from torch import Tensor

_PIECE = 128
"""Tokens that are summed one after the other."""


def check_rows(lengths: Tensor, **flat: Tensor) -> None:
    """Raise ValueError unless `lengths` is int64 [B] of at least 1 each, and every named tensor has their sum [N]."""
    if lengths.dtype != torch.int64 or lengths.dim() != 1:
        raise ValueError(f"lengths expects int64 [B], got {lengths.dtype} {list(lengths.shape)}")
    empty = (lengths < 1).nonzero().flatten().tolist()
    if empty:
        raise ValueError(f"lengths expects at least one response token in every row; rows {empty} have none")
    tokens = int(lengths.sum())
    for name, tensor in flat.items():
        if tensor.shape != (tokens,):
            raise ValueError(f"{name} expects shape {[tokens]}, the sum of lengths; got {list(tensor.shape)}")


def row_sums(x: Tensor, lengths: Tensor) -> Tensor:
    """Sum of each row's tokens: x [N] → [B]."""
    return torch.segment_reduce(x, "sum", lengths=lengths, unsafe=True)


def spread(rows: Tensor, lengths: Tensor) -> Tensor:
    """Each row's number at all of its tokens: rows [B] → [N]."""
    return rows.repeat_interleave(lengths)


def sums_to_go(x: Tensor, lengths: Tensor, decay: float) -> Tensor:
    """Σ_{k ≥ t} decay^{k−t}·x_k over the tokens of the row from t on: x [N] → [N].

    Long rows are summed in pieces, and then the pieces: what follows a piece reaches each of its tokens by a power of
    `decay`. So the number of steps hardly depends on the longest row.
    """
    if not len(lengths) or int(lengths.max()) <= _PIECE:
        return _sums_to_go(x, lengths, decay)
    pieces = (lengths + _PIECE - 1) // _PIECE
    last = pieces.cumsum(0) - 1
    sizes = torch.full((int(pieces.sum()),), _PIECE)
    sizes[last] = lengths - (pieces - 1) * _PIECE
    begins = sizes.cumsum(0) - sizes
    within = _sums_to_go(x, sizes, decay)
    following = sums_to_go(within[begins], pieces, decay**_PIECE).roll(-1)
    following[last] = 0
    to_next = spread(begins + sizes, sizes) - torch.arange(len(x))
    powers = x.new_tensor(decay) ** torch.arange(_PIECE + 1)
    return within.addcmul_(powers[to_next], spread(following, sizes))


def _sums_to_go(x: Tensor, lengths: Tensor, decay: float) -> Tensor:
    """Place by place, the last first.

    The tokens are laid out by their place in the row, the first of all rows, then the second: one addition for each
    place does all rows that are long enough, and there is no padding.
    """
    order = lengths.argsort(descending=True, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order))
    longest = int(lengths.max()) if len(lengths) else 0
    # How many rows reach each place, and where the place begins.
    reach = len(lengths) - torch.bincount(lengths, minlength=longest + 1).cumsum(0)[:longest]
    begin = reach.cumsum(0) - reach
    place = torch.arange(len(x)) - spread(lengths.cumsum(0) - lengths, lengths)
    where = begin[place].add_(spread(rank, lengths))
    sums = torch.empty_like(x)
    sums[where] = x
    counts, starts = reach.tolist(), begin.tolist()
    for t in range(longest - 2, -1, -1):
        following = counts[t + 1]
        sums[starts[t] : starts[t] + following].add_(sums[starts[t + 1] : starts[t + 1] + following], alpha=decay)
    return sums[where]
