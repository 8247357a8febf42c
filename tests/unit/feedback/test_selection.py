"""What is asked next: hand cases of every selection, seeds, and refusals."""

import subprocess
import sys

import numpy as np
import pytest

from mmrlhf_ray.errors import DataError
from mmrlhf_ray.feedback.labels.selection import (
    SELECTIONS,
    Candidates,
    Diversity,
    Mixture,
    Random,
    Shortlist,
    SmallMargin,
    farthest_first,
    hashed_ngrams,
    selection_named,
)

RNG = np.random.default_rng


def candidates(differences, features=None):
    """By the score difference of each pair and member; the second response scores 0."""
    first = np.array(differences, float)
    scores = np.stack([first, np.zeros_like(first)], axis=1)
    return Candidates(scores, np.zeros((len(scores), 0)) if features is None else np.array(features, float))


THREE = candidates([[2.0, 2.0], [-1.0, 3.0], [0.1, 0.5]], [[0, 0], [0, 1], [9, 9]])


def test_disagreement_by_hand():
    assert SELECTIONS["disagreement"].order(THREE, 3, RNG(0)) == [1, 2, 0]


def test_a_constant_beside_all_scores_of_a_member_changes_nothing():
    moved = Candidates(THREE.scores + np.array([0.0, 100.0]), THREE.features)
    assert SELECTIONS["disagreement"].order(moved, 3, RNG(0)) == [1, 2, 0]


def test_small_margin_by_hand():
    assert SmallMargin().order(THREE, 2, RNG(0)) == [2, 1]


def test_diversity_goes_far():
    points = [[0, 0], [0, 0.1], [10, 0], [0, 8]]
    assert farthest_first(np.array(points), 3, RNG(0), start=np.array([[0.0, 0.0]])) == [2, 3, 1]
    assert Diversity(np.array([[9.0, 9.0]])).order(THREE, 1, RNG(0)) == [0]
    assert set(Diversity().order(THREE, 2, RNG(1))) in ({0, 2}, {1, 2})


def test_shortlist_and_mixture():
    assert Shortlist(SmallMargin(), SELECTIONS["disagreement"], factor=2).order(THREE, 1, RNG(0)) == [1]
    many = candidates([[i, -i] for i in range(100)])
    chosen = Mixture(((SELECTIONS["disagreement"], 0.5), (Random(), 0.5))).order(many, 40, RNG(0))
    assert len(set(chosen)) == 40
    assert 15 <= sum(i >= 75 for i in chosen) <= 35
    assert any(i < 50 for i in chosen)
    with pytest.raises(DataError, match="positive weights"):
        Mixture(((Random(), 0.0),)).order(many, 1, RNG(0))


@pytest.mark.parametrize("name", SELECTIONS)
def test_each_is_seeded_and_repeats_nothing(name):
    rng = RNG(5)
    some = candidates(rng.normal(size=(50, 3)), rng.normal(size=(50, 4)))
    found = [selection_named(name).order(some, 20, RNG(seed)) for seed in (1, 1)]
    assert found[0] == found[1]
    assert len(set(found[0])) == 20
    assert sorted(selection_named(name).order(some, 99, RNG(0))) == list(range(50))


def test_equal_values_come_in_random_order():
    flat = candidates(np.zeros((30, 2)))
    assert SELECTIONS["disagreement"].order(flat, 30, RNG(0)) != SELECTIONS["disagreement"].order(flat, 30, RNG(1))


@pytest.mark.parametrize(
    ("name", "message"), [("disagreement", "two or more members"), ("margin", "got none"), ("diversity", "got none")]
)
def test_what_is_missing_is_named(name, message):
    with pytest.raises(DataError, match=message):
        SELECTIONS[name].order(Candidates(np.zeros((3, 2, 0)), np.zeros((3, 0))), 1, RNG(0))


def test_bad_candidates_are_refused():
    with pytest.raises(DataError, match="finite"):
        candidates([[np.nan]])
    with pytest.raises(DataError, match="pairs, 2, members"):
        Candidates(np.zeros((3, 3, 1)), np.zeros((3, 0)))
    with pytest.raises(DataError, match="expected one of random"):
        selection_named("best")


def test_hashes_are_those_of_every_process():
    texts = ["the image shows 7", "The image shows 7", "answer : left", ""]
    found = hashed_ngrams(texts)
    assert np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])
    assert np.linalg.norm(found, axis=1) == pytest.approx([1, 1, 1, 0])
    code = f"from mmrlhf_ray.feedback.labels.selection import hashed_ngrams as h; print(h({texts!r}).tolist())"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == str(found.tolist())


def test_predicted_votes_pass_over_what_all_are_sure_of():
    """9 and 19 are far apart, and both are sure; 1 and −1 predict different votes."""
    some = candidates([[9.0, 19.0], [1.0, -1.0]])
    assert SELECTIONS["disagreement"].order(some, 1, RNG(0)) == [0]
    assert SELECTIONS["disagreement_votes"].order(some, 1, RNG(0)) == [1]
