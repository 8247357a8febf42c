import json
import math
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from mmrlhf_ray.demo.annotators import ANNOTATORS, Annotator, Response, ResponsePair, annotate, choose_pairs
from mmrlhf_ray.schema import ANNOTATION, PROMPT, check

TRUTH = {"answer": "odd", "evidence": {"image": "7"}}
PROMPTS = pa.Table.from_pylist(
    [
        {
            "prompt_id": "p",
            "messages": "[]",
            "media_ids": [],
            "task": "image_parity",
            "modality": "image",
            "extras": json.dumps(TRUTH),
        }
    ],
    schema=PROMPT,
)
GROUNDED = Response("the image shows 7 . answer : odd", "stop", 9)  # gold 1.6
TERSE = Response("answer : odd", "stop", 4)  # gold 1.0
WRONG = Response("answer : even", "stop", 4)  # gold 0.0


def fair(temperature: float, **changes: float) -> Annotator:
    return Annotator("fair", temperature, **({"side_bias": 0.0, "length_bias": 0.0, "tie_margin": 0.0} | changes))


def share_first(pair: ResponsePair, who: Annotator, n: int = 4000) -> float:
    votes = annotate(PROMPTS, [pair] * n, seed=1, annotators=[who], votes_per_pair=1)
    return sum(ranks == [1, 2] for ranks in votes["ranks"].to_pylist()) / n


@pytest.mark.parametrize("temperature", [0.3, 0.6, 2.0])
def test_choices_follow_bradley_terry(temperature):
    got = share_first(ResponsePair("p", GROUNDED, TERSE), fair(temperature))
    assert got == pytest.approx(1 / (1 + math.exp(-0.6 / temperature)), abs=0.025)
    assert share_first(ResponsePair("p", TERSE, GROUNDED), fair(temperature)) == pytest.approx(1 - got, abs=0.04)


def test_sides_are_random_and_the_bias_is_for_a_side():
    pair = ResponsePair("p", TERSE, TERSE)
    votes = annotate(PROMPTS, [pair] * 2000, seed=1, annotators=[fair(0.2, side_bias=0.2)], votes_per_pair=1)
    rows = votes.to_pylist()
    assert sum(r["order_shown"] == [0, 1] for r in rows) / 2000 == pytest.approx(0.5, abs=0.04)
    left_wins = sum(r["ranks"][r["order_shown"][0]] == 1 for r in rows) / 2000
    assert left_wins == pytest.approx(1 / (1 + math.exp(-1)), abs=0.04)
    assert sum(r["ranks"] == [1, 2] for r in rows) / 2000 == pytest.approx(0.5, abs=0.04)


def test_length_bias_and_ties():
    assert share_first(ResponsePair("p", GROUNDED, TERSE), fair(0.1, length_bias=-1.0)) < 0.01
    votes = annotate(PROMPTS, [ResponsePair("p", TERSE, TERSE)] * 50, 1, [fair(1e-6, tie_margin=0.1)], 1)
    assert votes["ranks"].to_pylist() == [[1, 1]] * 50


def test_each_vote_is_a_row_by_another_annotator():
    pairs = [ResponsePair("p", GROUNDED, WRONG)] * 400
    votes = check(annotate(PROMPTS, pairs, seed=5), ANNOTATION, "test")
    assert votes.num_rows == 1200
    names = votes["annotator_id"].to_pylist()
    assert all(len(set(names[i : i + 3])) == 3 for i in range(0, 1200, 3))
    assert set(Counter(names)) == {a.annotator_id for a in ANNOTATORS}
    assert len(set(votes["annotation_id"].to_pylist())) == 1200
    assert votes["responses"][0].as_py() == [GROUNDED.text, WRONG.text]
    # These people are noisy, but not blind.
    right = sum(r == [1, 2] for r in votes["ranks"].to_pylist()) / 1200
    assert 0.9 < right < 1.0


def test_seeded():
    pairs = [ResponsePair("p", GROUNDED, TERSE)] * 50
    assert annotate(PROMPTS, pairs, seed=1) == annotate(PROMPTS, pairs, seed=1)
    assert annotate(PROMPTS, pairs, seed=1) != annotate(PROMPTS, pairs, seed=2)


def test_errors_name_the_pair():
    with pytest.raises(ValueError, match="pair 0: prompt_id 'q'"):
        annotate(PROMPTS, [ResponsePair("q", TERSE, WRONG)], seed=0)
    with pytest.raises(ValueError, match="votes_per_pair=6"):
        annotate(PROMPTS, [], seed=0, votes_per_pair=6)


def _responses(*texts):
    return [Response(text, "stop", len(text.split()) + 1) for text in texts]


def test_pairs_of_one_form_are_asked_about_first():
    long, other, bare, same = (
        "the image shows 7 . answer : 7",
        "the image shows 1 . answer : 1",
        "answer : 7",
        "answer : 1",
    )
    pairs = choose_pairs("p", _responses(bare, long, same, other, long), 6, np.random.default_rng(0))
    texts = [{pair.first.text, pair.second.text} for pair in pairs]
    assert texts[:2] == [{long, other}, {bare, same}]
    assert len(texts) == 6
    assert len({frozenset(t) for t in texts}) == 6
    assert all(len(t) == 2 for t in texts)


def test_no_more_pairs_than_wanted_and_none_of_one_text():
    assert len(choose_pairs("p", _responses("a", "b", "c"), 2, np.random.default_rng(0))) == 2
    assert choose_pairs("p", _responses("a", "a"), 2, np.random.default_rng(0)) == []
