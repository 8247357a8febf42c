"""Responses for people: text without control tokens, and whose media were shown."""

import math

from mmrlhf_ray.data.batches.collate import TokenRow
from mmrlhf_ray.data.encoding.encode import Encoder, encode_response
from mmrlhf_ray.pipelines.responses import SWAPPED, response_table
from mmrlhf_ray.schema import RESPONSE
from tests.unit.tiny import rollout_table


def test_rows_are_decoded_in_order(omni_encoder: Encoder) -> None:
    rows = [TokenRow([1], encode_response(omni_encoder, f"answer : {digit}"), []) for digit in (7, 3)]
    unfinished = TokenRow([1], encode_response(omni_encoder, "answer : 5")[:-1], [])
    rollouts = rollout_table(
        [*rows, unfinished], prompt_id=["a", "b" + SWAPPED, "c"], finish_reason=["stop", "stop", "length"]
    )
    table = response_table(omni_encoder, rollouts, "ppo", 4, [1.0, 2.0, math.nan], [0.1, 0.2, 0.3])
    assert table.schema.equals(RESPONSE)
    first, second, third = table.to_pylist()
    assert (first["prompt_id"], first["media"], first["text"]) == ("a", "own", "answer : 7")
    assert (second["prompt_id"], second["media"], second["text"]) == ("b", "swapped", "answer : 3")
    assert (first["score"], second["score"]) == (1.0, 2.0)
    assert math.isnan(third["score"])
    assert [third[k] for k in ("text", "finish_reason", "response_tokens")] == ["answer : 5", "length", 3]
    assert first["response_tokens"] == 4
    assert {(row["policy"], row["step"]) for row in (first, second, third)} == {("ppo", 4)}


def test_an_empty_table(omni_encoder: Encoder) -> None:
    assert len(response_table(omni_encoder, rollout_table([]), "sft", 0, [], [])) == 0
