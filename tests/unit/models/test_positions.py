"""Positions of text and media, worked out by hand."""

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
