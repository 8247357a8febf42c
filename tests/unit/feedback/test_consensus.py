"""Majority and Dawid–Skene: hand cases, and annotators of known reliability in the right order."""

import pytest

from mmrlhf_ray.errors import DataError
from mmrlhf_ray.feedback.annotations import comparisons_of
from mmrlhf_ray.feedback.labels.consensus import PairConsensus, consensus
from tests.unit.feedback.people import crowd, pair


def test_majority_by_hand():
    votes = [pair("left", who="a"), pair("left", who="b"), pair("right", who="c"), pair("tie", who="d")]
    (verdict,) = consensus(list(comparisons_of(votes)), "majority").verdicts.values()
    assert verdict == PairConsensus(first=0.5, second=0.25, tie=0.25, votes=4)
    assert (verdict.vote, verdict.margin) == (1, 0.25)


@pytest.mark.parametrize("seed", range(5))
def test_reliability_is_recovered_in_order(seed):
    """Dawid–Skene knows no truth, only the votes: three of five annotators on each of 600 items."""
    truth = {"careful": 0.97, "good": 0.87, "fair": 0.76, "poor": 0.64, "coin": 0.5}
    found = consensus(list(comparisons_of(crowd(truth, 600, seed, overlap=3))), "dawid_skene").reliability
    assert sorted(found, key=lambda who: -found[who].reliability) == list(truth)
    for who, share in truth.items():
        assert found[who].reliability == pytest.approx(share, abs=0.1)
        assert found[who].shared == found[who].votes > 150


def test_a_reliable_annotator_outweighs_two_guessers():
    votes = crowd({"expert": 0.98, "g1": 0.5, "g2": 0.5, "expert2": 0.98}, 200, seed=0)
    votes += [pair("left", who="expert", prompt_id="z"), pair("left", who="expert2", prompt_id="z")]
    votes += [pair("right", who=who, prompt_id="z") for who in ("g1", "g2")]
    comparisons = list(comparisons_of(votes))
    unit = comparisons[-1].unit
    assert consensus(comparisons, "majority").verdicts[unit].vote == 0
    found = consensus(comparisons, "dawid_skene").verdicts[unit]
    assert (found.vote, found.votes) == (1, 4)
    assert found.first > 0.95
    assert found.first + found.second + found.tie == pytest.approx(1)


def test_no_reliability_without_overlap():
    with pytest.raises(DataError, match="overlap 2 or more"):
        consensus(list(comparisons_of([pair("left"), pair("left", prompt_id="q")])), "dawid_skene")
