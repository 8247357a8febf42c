"""From responses to questions: what is asked, how often, and under which id."""

import json

import numpy as np
import pyarrow as pa
import pytest

from mmrlhf_ray.config.iterate import AskSection
from mmrlhf_ray.errors import DataError
from mmrlhf_ray.pipelines.iterate.pairs import Pair, candidate_pairs, choose, item_id, item_rows, pair_of
from tests.unit.tiny import filled_responses


def responses(**texts: list[str]) -> pa.Table:
    rows = [
        {
            "step": 0, "policy": "policy", "media": "own", "prompt_id": prompt_id, "task": "t", "modality": "text",
            "text": text, "finish_reason": "stop", "response_tokens": 1, "score": 0.0, "kl": 0.0,
        }
        for prompt_id, own in texts.items()
        for text in own
    ]  # fmt: skip
    return filled_responses(rows)


def prompts(*ids: str) -> dict[str, dict[str, object]]:
    message = json.dumps([{"role": "user", "content": "which ?"}])
    return {i: {"messages": message, "media_ids": ["m"], "task": "t", "extras": '{"answer": "1"}'} for i in ids}


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_candidates_are_different_texts_of_one_prompt():
    found = candidate_pairs(responses(p=["a", "b", "a", "c"], q=["a", "a", " "], r=["x", "y"]), 9, [], rng())
    assert {pair.key for pair in found} == {("p", "a", "b"), ("p", "a", "c"), ("p", "b", "c"), ("r", "x", "y")}
    assert [pair.prompt_id for pair in found] == ["p"] * 3 + ["r"]


def test_no_prompt_has_more_candidates_than_wanted():
    found = candidate_pairs(responses(p=list("abcdef"), q=list("ab")), 2, [], rng())
    assert [pair.prompt_id for pair in found] == ["p", "p", "q"]


def test_what_was_asked_before_is_not_asked_again_whichever_side_it_was_on():
    found = candidate_pairs(responses(p=["a", "b", "c"]), 9, [Pair("p", "b", "a"), Pair("q", "a", "c")], rng())
    assert {pair.key for pair in found} == {("p", "a", "c"), ("p", "b", "c")}


def test_both_texts_come_first_equally_often():
    many = {f"p{i}": ["a", "b"] for i in range(400)}
    first = [pair.first for pair in candidate_pairs(responses(**many), 1, [], rng())]
    assert 150 < first.count("a") < 250


def test_disagreement_asks_what_the_members_differ_on():
    pairs = [Pair("p", "a", str(i)) for i in range(4)]
    scores = np.zeros((4, 2, 3))
    scores[2, 0], scores[0, 0] = [5.0, -5.0, 0.0], [1.0, -1.0, 0.0]
    ask = AskSection(pairs=2, selection="disagreement")
    chosen, name = choose(pairs, prompts("p"), ask, scores, rng())
    assert (chosen, name) == ([pairs[2], pairs[0]], "disagreement")


def test_without_scores_it_is_random_and_says_so():
    pairs = [Pair("p", "a", str(i)) for i in range(9)]
    for selection in ("disagreement", "margin", "random"):
        chosen, name = choose(pairs, prompts("p"), AskSection(pairs=4, selection=selection), None, rng())
        assert (len(set(chosen)), name) == (4, "random")
    assert choose(pairs, prompts("p"), AskSection(pairs=4, selection="diversity"), None, rng())[1] == "diversity"


def test_nothing_to_ask_is_an_error_that_says_what_to_do():
    with pytest.raises(DataError, match=r"raise sample.temperature"):
        choose([], {}, AskSection(), None, rng())


def test_items_are_the_same_when_they_are_made_again():
    pairs = [Pair("p", "a", "b"), Pair("p", "b", "c")]
    ask = AskSection(overlap=2, question="rank")
    rows = item_rows(pairs, prompts("p"), ask, "run", 3)
    assert rows == item_rows(pairs, prompts("p"), ask, "run", 3)
    assert [pair_of(row) for row in rows] == pairs
    assert rows[0] | {"item_id": ""} == {
        "item_id": "", "prompt_id": "p", "messages": [{"role": "user", "content": "which ?"}], "media_ids": ["m"],
        "task": "t", "extras": {"answer": "1"}, "question": "rank", "overlap": 2, "priority": 2.0, "round": 3,
        "responses": [{"text": "a", "source": "run/round-03"}, {"text": "b", "source": "run/round-03"}],
    }  # fmt: skip


def test_ids_tell_run_round_prompt_and_texts_apart():
    pair = Pair("p", "a", "b")
    ids = [item_id(pair, "run", 1), item_id(pair, "run", 2), item_id(pair, "other", 1)]
    ids += [item_id(Pair(*content), "run", 1) for content in (("q", "a", "b"), ("p", "b", "a"), ("p", "a b", ""))]
    assert len(set(ids)) == len(ids)
    assert all(len(found) == 32 for found in ids)
