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

    Rows are cut into pieces, and tokens laid out by their place in the piece: the first of all pieces, then the second.
    One addition for each place sums all pieces that are long enough; the sums of pieces are then summed along the row
    in the same way, and what follows a piece reaches its places by a power of `decay`. So there is no padding, and the
    number of steps hardly depends on the longest row.
    """
    pieces = (lengths + _PIECE - 1) // _PIECE
    last = pieces.cumsum(0) - 1
    sizes = torch.full((int(pieces.sum()),), _PIECE)
    sizes[last] = lengths - (pieces - 1) * _PIECE
    order = sizes.argsort(descending=True, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order))
    # How many pieces reach each place, and where the place begins.
    reach = len(sizes) - torch.bincount(sizes, minlength=_PIECE + 1).cumsum(0)[:_PIECE]
    begin = reach.cumsum(0) - reach
    place = torch.arange(len(x)).sub_(spread(sizes.cumsum(0) - sizes, sizes))
    where = begin.index_select(0, place).add_(spread(rank, sizes))
    sums = torch.empty_like(x)
    sums[where] = x
    counts = reach.tolist()
    places = sums.split(counts)
    for number in range(_PIECE - 2, -1, -1):
        places[number][: counts[number + 1]].add_(places[number + 1], alpha=decay)
    if len(sizes) > len(lengths):
        after = sums_to_go(places[0][rank], pieces, decay**_PIECE).roll(-1)
        after[last] = 0  # so that only pieces of full size have something after them
        after = after[order]
        for number, count in enumerate(counts):
            places[number].add_(after[:count], alpha=decay ** (_PIECE - number))
    return sums.index_select(0, where)
