"""Figures of each annotator by hand."""

import pytest

from mmrlhf_ray.algorithms.statistics import wilson_interval
from mmrlhf_ray.errors import DataError
from mmrlhf_ray.feedback.labels.quality import annotator_quality, gold_answer
from tests.unit.feedback.people import A, B, C, answered, crowd, pair


def one(votes, gold=None, **options):
    (found,) = annotator_quality(votes, gold or {}, **options)
    return found


def test_gold_is_in_the_order_of_the_item():
    gold = {"item-p": gold_answer("pair", {"choice": "left"}, 2)}
    right = [pair("left"), pair("right", order=(1, 0))]
    wrong = [pair("right"), pair("left", order=(1, 0)), pair("tie")]
    assert one(right, gold).gold == wilson_interval(2, 2)
    assert one([*right, *wrong], gold).gold == wilson_interval(2, 5)
    assert one(right).gold is None


def test_gold_rankings_and_ratings():
    gold = {
        "item-p": gold_answer("rank", {"ranks": [1, 2, 3]}, 3),
        "item-q": gold_answer("rate", {"ratings": [{"safe": 5, "fluent": None}, {"safe": 1}]}, 2),
    }
    ranking = answered("rank", {"ranks": [1, 3, 2]}, responses=(A, B, C))
    assert one([ranking], gold).gold == wilson_interval(2, 3)
    ratings = answered("rate", {"ratings": [{"safe": 3}, {"safe": 2, "fluent": 1}]}, prompt_id="q")
    assert one([ratings], gold).gold == wilson_interval(1, 2)
    with pytest.raises(DataError, match="each of the 2 responses, got 3"):
        one([answered("rank", {"ranks": [1, 2]})], gold)


def test_pace_sides_and_ties():
    times = (200, 1_000, 4_000, 5_000, 0)
    choices = ("left", "left", "right", "tie", "both_bad")
    votes = [pair(c, milliseconds=ms, prompt_id=f"p{i}", order=(1, 0)) for i, (c, ms) in enumerate(zip(choices, times))]
    found = one(votes, fast_ms=1_500)
    assert (found.votes, found.median_ms, found.pair_votes) == (5, 2_500, 3)
    assert found.fast == wilson_interval(2, 4)
    assert found.left == wilson_interval(2, 3)
    assert found.ties == found.both_bad == wilson_interval(1, 5)
    other = one([answered("demonstrate", {"text": "Seven."}, responses=())])
    assert (other.left, other.ties, other.median_ms, other.fast) == (None, None, None, None)


@pytest.mark.parametrize("seed", range(5))
def test_known_reliability_is_recovered_in_order(seed):
    truth = {"careful": 0.97, "good": 0.85, "poor": 0.7, "coin": 0.5}
    found = {q.annotator_id: q for q in annotator_quality(crowd(truth, 500, seed), {})}
    assert sorted(found, key=lambda who: -found[who].consensus.estimate) == list(truth)


def test_agreement_with_the_others_needs_one_most_frequent_answer():
    votes = [pair("left", who="a"), pair("left", who="b"), pair("right", who="c")]
    found = {q.annotator_id: q for q in annotator_quality(votes, {})}
    assert (found["c"].consensus, found["c"].consensus_votes) == (wilson_interval(0, 1), 1)
    assert (found["a"].consensus, found["a"].consensus_votes) == (None, 0)  # left and right of the others are even


def test_side_bias_is_seen():
    votes = [pair("left", prompt_id=f"p{i}", order=(i % 2, 1 - i % 2)) for i in range(60)]
    assert one(votes).left.low > 0.9
