"""Responses behind one prompt get the values and gradients of rows of their own, for every family and modality."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from mmrlhf_ray.data.batches.collate import Batch, TokenRow, collate
from mmrlhf_ray.data.batches.dummy import dummy_rows
from mmrlhf_ray.data.batches.lines import collate_lines
from mmrlhf_ray.data.encoding.encode import Encoder, Features
from mmrlhf_ray.data.encoding.turns import encode_turn
from mmrlhf_ray.models import HeadedModel
from tests.unit.models.test_clips import kinds, passed, same
from tests.unit.models.test_families import clip
from tests.unit.tiny import token_rows

LENGTHS = ([5, 9, 1, 7], [3], [4, 0, 6], [2, 30])


def groups(encoder: Encoder, kind: str) -> tuple[list[TokenRow], dict[str, Features]]:
    """Four prompts with responses of many lengths: with two clips, with text alone, with one, and with both again."""
    shown = {"text": [[], [], [], []]}.get(kind) or [
        [clip(kind, 2), clip(kind, 3)], [], [clip(kind, 3)], [clip(kind, 2), clip(kind, 3)]
    ]  # fmt: skip
    first = len(encoder.tokenizer) - 20
    numbers = iter(range(1000))
    responses = [[[first + 7 * next(numbers) % 20 for _ in range(n)] for n in of_prompt] for of_prompt in LENGTHS]
    flat = [(media, response) for media, rs in zip(shown, responses, strict=True) for response in rs]
    return token_rows(encoder, [media for media, _ in flat], [response for _, response in flat])


LAYOUTS = {
    "one line": [0] * 10,
    "a line for each prompt": [0] * 4 + [1] + [2] * 3 + [3] * 2,
    "a group in two lines": [0, 1, 0, 1, 0, 1, 1, 1, 0, 0],
    "no two rows in one line": list(range(10)),
}


def lines_of(encoder: Encoder, rows: Sequence[TokenRow], lines: Sequence[int], features: dict[str, Features]) -> Batch:
    return collate_lines(rows, lines, [], features, 0, encoder.adapter.towers)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_values_and_gradients_are_those_of_plain_rows(
    family_encoder: Encoder,
    family_policy: HeadedModel,
    layout: str,
) -> None:
    for kind in ("text", *kinds(family_encoder)):
        rows, features = groups(family_encoder, kind)
        plain, shared = collate(rows, [], features, 0), lines_of(family_encoder, rows, LAYOUTS[layout], features)
        assert torch.equal(plain.response_tokens, shared.response_tokens)
        same(family_policy, plain, shared)


def test_clips_in_responses_get_the_values_and_gradients_of_plain_rows(
    family_encoder: Encoder, family_policy: HeadedModel
) -> None:
    for kind in kinds(family_encoder):
        plain_rows, features = groups(family_encoder, kind)
        rows = []
        for number, row in enumerate(plain_rows[:6]):
            shown = [clip(kind, 2), clip(kind, 4)][: number % 3]  # the prompt's own again, another, none
            turns = [encode_turn(family_encoder, [{"type": kind}], [one]) for one in shown]
            response = [*row.response, *(i for turn in turns for i in turn.token_ids), *row.response[:2]]
            features |= {name: parts for turn in turns for name, parts in turn.features.items()}
            ids = [*row.media_ids, *(one.media_id for one in shown)]
            rows.append(TokenRow(row.context, response, ids, len(shown)))
        plain = collate(rows, [], features, 0)
        for lines in ([0] * 6, [0, 1, 0, 1, 2, 2]):
            same(family_policy, plain, lines_of(family_encoder, rows, lines, features))


@torch.no_grad()
def test_the_last_token_of_each_row_is_read(family_encoder: Encoder, family_policy: HeadedModel) -> None:
    def read(batch: Batch) -> Tensor:
        return family_policy(batch.last_positions, **batch.inputs)

    rows, features = groups(family_encoder, "image")
    plain = read(collate(rows, [], features, 0))
    for lines in LAYOUTS.values():
        torch.testing.assert_close(read(lines_of(family_encoder, rows, lines, features)), plain, atol=1e-5, rtol=0)


def test_dummies_change_neither_values_nor_gradients(family_encoder: Encoder, family_policy: HeadedModel) -> None:
    rows, features = groups(family_encoder, "image")
    dummies, of_dummies = dummy_rows(family_encoder, kinds(family_encoder))
    known = {**features, **of_dummies}
    lines = LAYOUTS["a line for each prompt"]
    without = collate_lines(rows, lines, [], known, 0, family_encoder.adapter.towers)
    batch = collate_lines(rows, lines, list(dummies.values()), known, 0, family_encoder.adapter.towers)
    assert len(batch.anchor_positions) == len(dummies)
    (values, gradients), (others, of_other) = passed(family_policy, without), passed(family_policy, batch)
    torch.testing.assert_close(values, others, atol=1e-5, rtol=0)
    for name, gradient in gradients.items():
        torch.testing.assert_close(of_other[name], gradient, atol=2e-4, rtol=1e-3, msg=name)


def test_a_line_by_hand() -> None:
    rows = [
        TokenRow([5, 6, 7], [8, 9], []),
        TokenRow([4], [3], []),
        TokenRow([5, 6, 7], [2], []),
        TokenRow([4], [], []),
    ]
    batch = collate_lines(rows, [0, 1, 0, 0], [TokenRow([1, 1], [], [])], {}, 99, ())
    inputs = {name: values.tolist() for name, values in batch.inputs.items()}
    assert inputs["input_ids"] == [[5, 6, 7, 8, 9, 2, 4], [4, 3, 99, 99, 99, 99, 99], [1, 1, 99, 99, 99, 99, 99]]
    assert inputs["line_prompt"] == [[0, 0, 0, 0, 0, 0, 1], [2, 2, *[-1] * 5], [3, 3, *[-1] * 5]]
    assert inputs["line_part"] == [[0, 0, 0, 1, 1, 2, 0], [0, 1, *[0] * 5], [0] * 7]
    assert inputs["line_place"] == [[0, 1, 2, 3, 4, 3, 0], [0, 1, *[0] * 5], [0, 1, *[0] * 5]]
    assert inputs["plain_ids"] == [[5, 6, 7, 8, 9], [4, *[99] * 4], [4, 3, *[99] * 3], [1, 1, *[99] * 3]]
    assert inputs["plain_mask"] == [[1] * 5, [1, *[0] * 4], [1, 1, *[0] * 3], [1, 1, *[0] * 3]]
    assert batch.response_positions.tolist() == [2, 3, 7, 2]
    assert batch.response_tokens.tolist() == [8, 9, 3, 2]
    assert batch.last_positions.tolist() == [4, 8, 5, 6]
    assert batch.anchor_positions.tolist() == [15]


def test_rows_with_other_media_do_not_share_a_prompt() -> None:
    rows = [TokenRow([5, 6], [8], ["a"]), TokenRow([5, 6], [9], ["b"]), TokenRow([5, 6], [7], ["a"])]
    features = {name: {"pixel_values": np.full((1, 2), number)} for number, name in enumerate("ab")}
    inputs = collate_lines(rows, [0, 0, 0], [], features, 0, ("pixel_values",)).inputs
    assert inputs["input_ids"].tolist() == [[5, 6, 8, 7, 5, 6, 9]]
    assert inputs["pixel_values"].tolist() == [[0, 0], [1, 1]]


def test_rows_that_show_the_same_later_do_not_share_a_prompt() -> None:
    rows = [TokenRow([5, 6], [8], ["a"], 1), TokenRow([5, 6], [9], ["a"], 1)]
    inputs = collate_lines(rows, [0, 0], [], {"a": {"pixel_values": np.zeros((1, 2))}}, 0, ()).inputs
    assert inputs["input_ids"].tolist() == [[5, 6, 8, 5, 6, 9]]
    assert len(inputs["pixel_values"]) == 2


def test_a_pass_of_dummies_alone() -> None:
    batch = collate_lines([], [], [TokenRow([1, 2], [], [])], {}, 0, ())
    assert batch.inputs["input_ids"].tolist() == [[1, 2]]
    assert batch.response_positions.tolist() == batch.last_positions.tolist() == []
    assert batch.anchor_positions.tolist() == [1]
