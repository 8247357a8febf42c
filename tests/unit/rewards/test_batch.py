"""From rollouts and prompts to what functions are given."""

import json
from dataclasses import replace

import pyarrow as pa
import pytest

from mmrlhf_ray.rewards.batch import PromptLookup, Rows, extras_columns, prompt_text
from mmrlhf_ray.rewards.scores import ComponentScores
from mmrlhf_ray.schema import PROMPT, RESPONSE, ROLLOUT
from tests.unit.rewards.support import make_batch


def prompts(*extras):
    messages = json.dumps([{"role": "user", "content": "how many ?"}])
    return pa.Table.from_pylist(
        [
            {
                "prompt_id": f"p{i}",
                "messages": messages,
                "media_ids": [],
                "task": "sums",
                "modality": "text",
                "extras": json.dumps(extra),
            }
            for i, extra in enumerate(extras)
        ],
        schema=PROMPT,
    )


def rollouts(*prompt_ids):
    return pa.Table.from_pylist(
        [
            {
                "sample_id": f"s{i}",
                "prompt_id": prompt_id,
                "task": "sums",
                "modality": "text",
                "group_id": i,
                "policy_version": 0,
                "versions": [],
                "segments": [],
                "prompt_token_ids": [1],
                "facts_token_ids": [],
                "response_token_ids": [2] * (i + 1),
                "response_mask": [True] * (i + 1),
                "rollout_logprobs": [0.0] * (i + 1),
                "finish_reason": "stop",
                "media_ids": [],
            }
            for i, prompt_id in enumerate(prompt_ids)
        ],
        schema=ROLLOUT,
    )


def test_rows_get_the_columns_of_their_prompts():
    lookup = PromptLookup(prompts({"answer": 7, "task": "not this"}, {"facts": {"a": 1}}, {"unused": 0}))
    batch = lookup.batch(rollouts("p1", "p0", "p1"), ["x", "y", "z"])
    assert batch.sample_ids == ("s0", "s1", "s2")
    assert batch.completions == ("x", "y", "z")
    assert batch.prompts[0] == [{"role": "user", "content": "how many ?"}]
    assert batch.columns == {
        "answer": [None, 7, None],
        "facts": [{"a": 1}, None, {"a": 1}],
        "unused": [None] * 3,  # functions get the same columns in every step
        "prompt_id": ["p1", "p0", "p1"],
        "task": ["sums"] * 3,
        "modality": ["text"] * 3,
        "finish_reason": ["stop"] * 3,
        "response_tokens": [1, 2, 3],
        "turns": [1, 1, 1],
    }


def test_kept_responses_make_the_batch_that_their_rollouts_made():
    sampled = rollouts("p1", "p0", "p1")
    kept = pa.Table.from_pylist(
        [
            {name: row[name] for name in ("prompt_id", "task", "modality", "finish_reason")}
            | {"step": 0, "policy": "policy", "media": "own", "text": text, "score": 0.0, "kl": 0.0}
            | {"response_tokens": len(row["response_token_ids"]), "turns": "[]"}
            for row, text in zip(sampled.to_pylist(), ["x", "y", "z"], strict=True)
        ],
        schema=RESPONSE,
    )
    lookup = PromptLookup(prompts({"answer": 7}, {"facts": 1}))
    batch = lookup.batch_of_texts(kept)
    assert batch.sample_ids == ("p1#0", "p0#1", "p1#2")
    assert replace(batch, sample_ids=("s0", "s1", "s2"), groups=(0, 1, 2)) == lookup.batch(sampled, ["x", "y", "z"])
    assert batch.rows == Rows(batch.sample_ids, ("sums",) * 3, ("text",) * 3)


def test_unknown_prompts_are_named():
    with pytest.raises(ValueError, match=r"prompt_id .* one of the 1 prompts, got \['p9'\]"):
        PromptLookup(prompts({})).batch(rollouts("p0", "p9"), ["", ""])


def test_select_takes_rows_in_order():
    batch = make_batch(["a", "b", "c"], answer=[1, 2, 3])
    part = batch.select([2, 0])
    assert (part.sample_ids, part.completions, part.columns["answer"]) == (("s2", "s0"), ("c", "a"), [3, 1])
    assert len(part) == len(part.prompts) == len(part.tasks) == len(part.modalities) == 2


def test_columns_of_the_data():
    assert extras_columns(prompts({"a": 1}, {}, {"b": None})) == {"a", "b"}
    assert extras_columns(prompts()) == set()
    assert Rows.of(rollouts("p0")) == Rows(("s0",), ("sums",), ("text",), (0,))


def test_prompts_as_text():
    parts = [{"type": "image"}, {"type": "text", "text": "is this a cat ?"}, {"type": "audio"}]
    assert prompt_text([{"role": "user", "content": parts}]) == "<image> is this a cat ? <audio>"
    chat = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello {prompt}"}]
    assert prompt_text(chat) == "system: be brief\n\nuser: hello {prompt}"


def test_scores_are_put_back_in_place():
    part = ComponentScores((1.0, None), (None, "lost"))
    assert part.scatter([3, 1], 4) == ComponentScores((None, None, None, 1.0), (None, "lost", None, None))


def test_columns_that_no_prompt_of_a_step_has_are_there_all_the_same():
    """A streamed step knows its own prompts only."""
    lookup = PromptLookup(prompts({"answer": 7}), frozenset({"facts"}))
    assert lookup.batch(rollouts("p0"), [""]).columns["facts"] == [None]
