"""Padding changes nothing, media land at their own row, and dummies leave no trace."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mmrlhf_ray.data.batches.collate import TokenRow, collate, flat_column, rollout_rows
from mmrlhf_ray.data.batches.dummy import dummy_rows
from mmrlhf_ray.data.encoding.encode import Encoder, RawMedia, processor_arguments
from mmrlhf_ray.models import HeadedModel
from tests.unit.tiny import messages, mixed_media, mixed_responses, mixed_rows, raw, rollout_table, token_rows

PAD = 0


@pytest.fixture(scope="module")
def whole_model(encoder: Encoder, omni: Path, vl: Path) -> torch.nn.Module:
    """transformers' own model, with its own head; Qwen2.5-VL's numbers the text after a clip otherwise than it was
    trained, which its adapter fixes."""
    path = {"qwen2_5_omni": omni, "qwen2_5_vl": vl}[encoder.adapter.family]
    return encoder.adapter.load(path, torch.float32)


@torch.no_grad()
def naive_logprobs(model: torch.nn.Module, encoder: Encoder, media: list[RawMedia], response: list[int]) -> Tensor:
    """One prompt through the processor and the whole model, unpadded, with the response behind it."""
    chat = json.loads(messages([m.kind for m in media]))
    text = encoder.processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    inputs = encoder.processor(text=[text], **processor_arguments(encoder, media), return_tensors="pt")
    prompt = inputs["input_ids"].shape[1]
    tail = torch.tensor([response])
    inputs["input_ids"] = torch.cat([inputs["input_ids"], tail], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if "mm_token_type_ids" in inputs:
        inputs["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(tail)], dim=1)
    logits = model(**inputs).logits[0, prompt - 1 : -1]
    return logits.log_softmax(-1).gather(1, tail[0][:, None])[:, 0]


def logprobs(model: HeadedModel, rows: list[TokenRow], features: dict, dummies: list[TokenRow] | None = None) -> Tensor:
    batch = collate(rows, dummies or [], features, PAD)
    output = model(batch.response_positions, **batch.inputs)
    return output.log_softmax(-1).gather(1, batch.response_tokens[:, None])[:, 0]


def by_row(values: Tensor, rows: list[TokenRow]) -> list[Tensor]:
    return list(values.split([len(row.response) for row in rows]))


def test_mixed_batch_equals_each_row_alone_in_transformers(
    encoder: Encoder, policy: HeadedModel, whole_model: torch.nn.Module
) -> None:
    rows, features = mixed_rows(encoder)
    assert len({len(row) for row in rows}) > 2, "rows must differ in length for this to test anything"
    with torch.no_grad():
        got = by_row(logprobs(policy, rows, features), rows)
    for media, response, of_row in zip(mixed_media(encoder), mixed_responses(encoder), got, strict=True):
        want = naive_logprobs(whole_model, encoder, media, response)
        torch.testing.assert_close(of_row, want, atol=2e-5, rtol=1e-5)


def test_order_of_rows_does_not_matter(encoder: Encoder, policy: HeadedModel) -> None:
    rows, features = mixed_rows(encoder)
    order = [3, 0, 4, 2, 1]
    with torch.no_grad():
        straight = by_row(logprobs(policy, rows, features), rows)
        shuffled = by_row(logprobs(policy, [rows[i] for i in order], features), [rows[i] for i in order])
    for place, i in enumerate(order):
        torch.testing.assert_close(shuffled[place], straight[i], atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("place", [0, 1])
def test_another_picture_changes_its_own_row_only(encoder: Encoder, policy: HeadedModel, place: int) -> None:
    response = mixed_responses(encoder)[0]
    shown = [[raw("image", 1)], [raw("image", 2), raw("image", 3)]]
    swapped = [list(media) for media in shown]
    swapped[place][-1] = raw("image", 9)
    before, after = (
        by_row(logprobs(policy, rows, features), rows)
        for rows, features in (token_rows(encoder, media, [response] * 2) for media in (shown, swapped))
    )
    assert (before[place] - after[place]).abs().max() > 1e-4
    torch.testing.assert_close(before[1 - place], after[1 - place], atol=1e-5, rtol=0)


def test_dummies_change_neither_logprobs_nor_gradients(encoder: Encoder, policy: HeadedModel) -> None:
    rows, features = token_rows(
        encoder, [[], [raw("image", 1)]], [mixed_responses(encoder)[0], mixed_responses(encoder)[1]]
    )
    dummies, dummy_features = dummy_rows(encoder, list(encoder.adapter.placeholders))

    def run(with_dummies: bool) -> tuple[Tensor, dict[str, Tensor]]:
        policy.zero_grad(set_to_none=True)
        batch = collate(rows, list(dummies.values()) if with_dummies else [], {**features, **dummy_features}, PAD)
        output = policy(torch.cat([batch.response_positions, batch.anchor_positions]), **batch.inputs)
        real, anchor = output[: len(batch.response_tokens)], output[len(batch.response_tokens) :]
        assert len(anchor) == (len(dummies) if with_dummies else 0)
        values = real.log_softmax(-1).gather(1, batch.response_tokens[:, None])[:, 0]
        (values.sum() + 0.0 * anchor.sum()).backward()
        gradients = {n: p.grad.clone() for n, p in policy.named_parameters() if p.grad is not None}
        return values.detach(), gradients

    values, gradients = run(with_dummies=False)
    same_values, same_gradients = run(with_dummies=True)
    torch.testing.assert_close(values, same_values, atol=1e-5, rtol=0)
    silent = {n for n, _ in policy.named_parameters()} - set(gradients)
    assert bool(silent) == ("audio" in encoder.adapter.placeholders)  # the audio tower did not run without dummies
    unreached = {n for n, _ in policy.named_parameters()} - set(same_gradients)
    assert unreached <= {"backbone.audio_tower.audio_bos_eos_token.weight"}, "which transformers' class never uses"
    for name, gradient in same_gradients.items():
        want = gradients.get(name, torch.zeros_like(gradient))
        torch.testing.assert_close(gradient, want, atol=2e-4, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")


def test_positions_by_hand() -> None:
    rows = [TokenRow([5, 6, 7], [8, 9], []), TokenRow([5], [6], [])]
    batch = collate(rows, [TokenRow([1, 2, 3], [], [])], {}, pad_token_id=99)
    assert batch.inputs["input_ids"].tolist() == [[5, 6, 7, 8, 9], [5, 6, 99, 99, 99], [1, 2, 3, 99, 99]]
    assert batch.inputs["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]]
    assert set(batch.inputs) == {"input_ids", "attention_mask"}
    assert batch.response_positions.tolist() == [2, 3, 5]
    assert batch.response_tokens.tolist() == [8, 9, 6]
    assert batch.last_positions.tolist() == [4, 6]
    assert batch.anchor_positions.tolist() == [12]
    moved = batch.to(torch.device("cpu"))
    assert moved.anchor_positions.tolist() == [12]
    assert moved.last_positions.tolist() == [4, 6]


def test_a_pass_of_dummies_alone() -> None:
    batch = collate([], [TokenRow([1, 2], [], [])], {}, pad_token_id=99)
    assert batch.response_positions.tolist() == []
    assert batch.response_positions.dtype == torch.long
    assert batch.last_positions.tolist() == []
    assert batch.anchor_positions.tolist() == [1]


def test_sounds_of_different_length_are_padded_and_masked() -> None:
    def sound(frames: int) -> dict[str, np.ndarray]:
        return {
            "input_features": np.full((1, 4, frames), 7.0, np.float32),
            "feature_attention_mask": np.ones((1, frames), np.int32),
        }

    rows = [TokenRow([1], [2], ["a"]), TokenRow([1], [2], ["b", "a"])]
    batch = collate(rows, [], {"a": sound(3), "b": sound(5)}, pad_token_id=0)
    assert batch.inputs["feature_attention_mask"].sum(1).tolist() == [3, 5, 3]
    assert batch.inputs["input_features"].shape == (3, 4, 5)
    assert batch.inputs["input_features"].sum((1, 2)).tolist() == [7 * 4 * 3, 7 * 4 * 5, 7 * 4 * 3]


def test_facts_stand_before_the_prompt_where_asked_for() -> None:
    table = rollout_table([TokenRow([1, 2], [3], ["m"]), TokenRow([4], [5, 6], [])], facts=[[7, 8], []])
    assert rollout_rows(table, with_facts=True) == [TokenRow([7, 8, 1, 2], [3], ["m"]), TokenRow([4], [5, 6], [])]
    assert rollout_rows(table, with_facts=False)[0] == TokenRow([1, 2], [3], ["m"])


def test_flat_column_follows_the_rows_asked_for() -> None:
    rows = [TokenRow([1], [1] * n, []) for n in (2, 1, 3)]
    table = rollout_table(rows, rollout_logprobs=[[1.0, 2.0], [3.0], [4.0, 5.0, 6.0]])
    assert flat_column(table, "rollout_logprobs", [2, 0]).tolist() == [4.0, 5.0, 6.0, 1.0, 2.0]
    assert flat_column(table, "response_mask", [1]).tolist() == [True]
    assert flat_column(table.slice(1), "rollout_logprobs", [0]).tolist() == [3.0]
    assert flat_column(table, "rollout_logprobs", []).tolist() == []
