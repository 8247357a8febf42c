"""Positions of text and media, worked out by hand."""

import random

import pytest
import torch

from mmrlhf_ray.models.families.positions import IMAGE, VIDEO, rotary_positions, token_kinds


def test_text_goes_on_after_the_largest_position_of_a_clip() -> None:
    # Two words, a clip of 2 frames of 1 × 2 tokens whose frames are 3 apart, one word.
    kinds = torch.tensor([[0, 0, VIDEO, VIDEO, VIDEO, VIDEO, 0]])
    got = rotary_positions(kinds, torch.ones_like(kinds), {VIDEO: iter([(2, 1, 2, 3.0)])})
    assert got[:, 0].tolist() == [
        [0, 1, 2, 2, 5, 5, 6],
        [0, 1, 2, 2, 2, 2, 6],
        [0, 1, 2, 3, 2, 3, 6],
    ]


def test_steps_are_cut_to_whole_numbers_and_padding_is_left_out() -> None:
    kinds = torch.tensor([[VIDEO, VIDEO, VIDEO, 0, 0], [0, IMAGE, IMAGE, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]])
    grids = {VIDEO: iter([(3, 1, 1, 1.5)]), IMAGE: iter([(1, 2, 1, 1.0)])}
    got = rotary_positions(kinds, mask, grids)
    assert got[0].tolist() == [[0, 1, 3, 4, 0], [0, 1, 1, 3, 4]]
    assert got[1].tolist() == [[0, 0, 0, 4, 0], [0, 1, 2, 3, 4]]


def test_a_clip_of_another_size_is_refused() -> None:
    kinds = torch.tensor([[0, IMAGE, IMAGE, 0]])
    with pytest.raises(ValueError, match="row 0: a clip of 4 tokens stands at 2 placeholders"):
        rotary_positions(kinds, torch.ones_like(kinds), {IMAGE: iter([(1, 2, 2, 1.0)])})


def test_kinds_are_told_by_their_placeholders() -> None:
    assert token_kinds(torch.tensor([[7, 1, 8, 7]]), {7: IMAGE, 8: VIDEO}).tolist() == [[1, 0, 2, 1]]


def one_by_one(kinds: list[int], grids: dict[int, list[tuple[int, int, int, float]]]) -> list[list[int]]:
    """Positions of a row, token by token."""
    out, start, at = [], 0, 0
    clips = {kind: iter(of_kind) for kind, of_kind in grids.items()}
    while at < len(kinds):
        if kinds[at] == 0:
            out.append([start] * 3)
            start, at = start + 1, at + 1
            continue
        frames, rows, columns, step = next(clips[kinds[at]])
        of_clip = [(int(f * step), r, c) for f in range(frames) for r in range(rows) for c in range(columns)]
        out += [[start + value for value in place] for place in of_clip]
        start, at = start + max(map(max, of_clip)) + 1, at + len(of_clip)
    return [list(axis) for axis in zip(*out, strict=True)]


def test_rows_of_many_clips_are_those_numbered_token_by_token() -> None:
    rng = random.Random(0)
    rows: list[list[int]] = []
    grids: dict[int, list[tuple[int, int, int, float]]] = {IMAGE: [], VIDEO: []}
    wanted = []
    for _ in range(20):
        row, own = [0] * rng.randint(1, 5), {IMAGE: [], VIDEO: []}
        for _ in range(rng.randint(0, 4)):
            kind = rng.choice([IMAGE, VIDEO])
            frames, step = (1, 1.0) if kind == IMAGE else (rng.randint(1, 4), 2.5)
            clip = (frames, rng.randint(1, 3), rng.randint(1, 3), step)
            own[kind].append(clip)
            row += [kind] * (clip[0] * clip[1] * clip[2]) + [0] * rng.randint(1, 6)
        wanted.append(one_by_one(row, own))
        rows.append(row)
        grids = {kind: grids[kind] + own[kind] for kind in grids}
    width = max(map(len, rows))
    kinds = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    got = rotary_positions(kinds, mask, {kind: iter(of_kind) for kind, of_kind in grids.items()})
    for number, (row, want) in enumerate(zip(rows, wanted, strict=True)):
        assert got[:, number, : len(row)].tolist() == want
        assert not got[:, number, len(row) :].any()
