"""Rows end to end in one line get the values and gradients of padded rows, with a mask and without, for every family
and modality, and nothing is padded."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_flash_attention_utils import prepare_fa_kwargs_from_position_ids
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from mmrlhf_ray.data.batches.collate import Batch, TokenRow, collate
from mmrlhf_ray.data.batches.dummy import dummy_rows
from mmrlhf_ray.data.batches.lines import collate_lines
from mmrlhf_ray.data.encoding.encode import Encoder, Features
from mmrlhf_ray.models import HeadedModel
from mmrlhf_ray.models.families.kernels import use_kernel
from tests.unit.data.batches.test_lines import groups
from tests.unit.models.test_clips import alike, kinds, passed, same

KERNEL = "flash_by_rows"
LONGEST: list[int] = []
"""Tokens of the longest row that each call of by_rows() found."""


def packed(encoder: Encoder, rows: list[TokenRow], features: dict[str, Features]) -> Batch:
    return collate_lines(rows, [0] * len(rows), [], features, 0, encoder.adapter.towers, packed=True)


def by_rows(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **given: Any
) -> tuple[Tensor, None]:
    """What flash attention is given and computes, row by row with torch's own: transformers finds the rows in the
    position ids, and there is no mask."""
    assert mask is None
    window = given.pop("sliding_window", None)
    (ends, _), (longest, _) = prepare_fa_kwargs_from_position_ids(given.pop("position_ids"))
    LONGEST.append(int(longest))
    parts = []
    for first, last in pairwise(ends.tolist()):
        place = torch.arange(last - first)
        seen = place <= place[:, None]
        if window is not None:
            seen &= place > place[:, None] - window
        of_row = [t[:, :, first:last] for t in (query, key, value)]
        parts.append(sdpa_attention_forward(module, *of_row, seen[None, None], scaling=given.get("scaling"))[0])
    return torch.cat(parts, 1), None


@pytest.fixture
def policy(family_policy: HeadedModel) -> Iterator[HeadedModel]:
    """The family's, whose kernel is what it was afterwards."""
    ALL_ATTENTION_FUNCTIONS.register(KERNEL, by_rows)
    yield family_policy
    choose(family_policy, "sdpa")
    use_kernel(family_policy.backbone)


def choose(model: HeadedModel, kernel: str) -> None:
    """For the language model alone: by_rows() is none for towers."""
    model.backbone.attention_kernel = kernel
    model.backbone.config.get_text_config()._attn_implementation = kernel
    LONGEST.clear()


def test_a_block_mask_gives_the_values_and_gradients_of_padded_rows(
    family_encoder: Encoder, family_policy: HeadedModel
) -> None:
    for kind in ("text", *kinds(family_encoder)):
        rows, features = groups(family_encoder, kind)
        batch = packed(family_encoder, rows, features)
        assert batch.inputs["input_ids"].numel() == sum(map(len, rows)), "nothing is padded"
        same(family_policy, collate(rows, [], features, 0), batch)


def test_so_does_a_kernel_without_masks(family_encoder: Encoder, policy: HeadedModel) -> None:
    both_ways = family_encoder.adapter.shared_rows.both_ways is not None
    for kind in ("text", *kinds(family_encoder)):
        rows, features = groups(family_encoder, kind)
        choose(policy, "sdpa")
        want = passed(policy, collate(rows, [], features, 0))
        choose(policy, KERNEL)
        alike(want, passed(policy, packed(family_encoder, rows, features)))
        masked = both_ways and kind == "image"  # whose tokens see each other in both directions
        assert set(LONGEST) == (set() if masked else {max(map(len, rows))})


def test_a_shared_prompt_has_a_mask_whatever_the_kernel(family_encoder: Encoder, policy: HeadedModel) -> None:
    rows, features = groups(family_encoder, "text")
    choose(policy, KERNEL)
    batch = collate_lines(rows, [0] * len(rows), [], features, 0, family_encoder.adapter.towers)
    with torch.no_grad():
        policy(batch.response_positions, **batch.inputs)
        assert not LONGEST
        line = packed(family_encoder, rows, features)
        policy(line.response_positions, **line.inputs)
    assert LONGEST, "and the next call without one takes the kernel again"


def test_dummies_stand_in_the_line(family_encoder: Encoder, family_policy: HeadedModel) -> None:
    rows, features = groups(family_encoder, "image")
    dummies, of_dummies = dummy_rows(family_encoder, kinds(family_encoder))
    known, towers = {**features, **of_dummies}, family_encoder.adapter.towers
    batch = collate_lines(rows, [0] * len(rows), list(dummies.values()), known, 0, towers, packed=True)
    assert batch.inputs["input_ids"].shape == (1, sum(map(len, [*rows, *dummies.values()])))
    assert len(batch.anchor_positions) == len(dummies)
    with torch.no_grad():
        got = family_policy(batch.last_positions, **batch.inputs)
        plain = collate(rows, [], features, 0)
        want = family_policy(plain.last_positions, **plain.inputs)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)


def test_a_packed_line_by_hand() -> None:
    rows = [TokenRow([5, 6], [8, 9], []), TokenRow([5, 6], [2], []), TokenRow([4], [], [])]
    batch = collate_lines(rows, [0, 0, 0], [TokenRow([1, 1], [], [])], {}, 99, (), packed=True)
    inputs = {name: values.tolist() for name, values in batch.inputs.items()}
    assert inputs["input_ids"] == [[5, 6, 8, 9, 5, 6, 2, 4, 1, 1]]
    assert inputs["line_prompt"] == [[0, 0, 0, 0, 1, 1, 1, 2, 3, 3]]
    assert inputs["line_place"] == [[0, 1, 2, 3, 0, 1, 2, 0, 0, 1]]
    assert "line_part" not in inputs
    assert batch.response_positions.tolist() == [1, 2, 5]
    assert batch.last_positions.tolist() == [3, 6, 7]
    assert batch.anchor_positions.tolist() == [9]
