"""Krippendorff's α against hand cases and published examples; agreement of every two annotators."""

import numpy as np
import pytest

from mmrlhf_ray.feedback.labels.agreement import (
    Label,
    _alphas,
    _coincidences,
    agreement,
    alpha_interval,
    krippendorff_alpha,
    pairwise_agreement,
    shared_labels,
)
from tests.unit.feedback.people import A, B, C, answered, crowd, pair

_ = None
# Krippendorff 2011, "Computing Krippendorff's alpha-reliability", example C: four observers, twelve units.
FOUR_OBSERVERS = (
    (1, 2, 3, 3, 2, 1, 4, 1, 2, _, _, _),
    (1, 2, 3, 3, 2, 2, 4, 1, 2, 5, _, 3),
    (_, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, _),
    (1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, _),
)
# The example of the encyclopedia's article on the measure: three observers, fifteen units.
THREE_OBSERVERS = (
    (_, _, _, _, _, 3, 4, 1, 2, 1, 1, 3, 3, _, 3),
    (1, _, 2, 1, 3, 3, 4, 3, _, _, _, _, _, _, _),
    (_, _, 2, 1, 3, 4, 4, _, 2, 1, 1, 3, 3, _, 4),
)


def labels(rows):
    made = [Label(u, f"o{o}", float(v)) for o, row in enumerate(rows) for u, v in enumerate(row) if v is not None]
    return shared_labels(made)


@pytest.mark.parametrize(
    ("rows", "level", "expected"),
    [
        (FOUR_OBSERVERS, "nominal", 0.743),
        (FOUR_OBSERVERS, "ordinal", 0.815),
        (THREE_OBSERVERS, "nominal", 0.691),
    ],
)
def test_published_examples(rows, level, expected):
    assert krippendorff_alpha(labels(rows), level) == pytest.approx(expected, abs=5e-4)


def test_the_libraries_own_example():
    """Of crowd-kit's documentation: two agree on X and Y and differ on Z; α = 4/9."""
    said = [("X", "yes", "yes"), ("Y", "no", "no"), ("Z", "yes", "no")]
    made = [Label(unit, who, value) for unit, a, b in said for who, value in (("A", a), ("B", b))]
    assert krippendorff_alpha(made, "nominal") == pytest.approx(4 / 9)


def test_a_nominal_case_by_hand():
    """Two annotators, four items: ll, ll, rr, lr. Observed disagreement 2/8; n_l = 5, n_r = 3, expected 30/56."""
    votes = [("left", "left"), ("left", "left"), ("right", "right"), ("left", "right")]
    made = [pair(c, who=w, prompt_id=f"p{i}") for i, both in enumerate(votes) for w, c in zip("ab", both)]
    (found,) = agreement(made, {f"p{i}": "digits" for i in range(4)})
    assert found.alpha.estimate == pytest.approx(1 - (2 / 8) / (30 / 56))
    assert (found.kind, found.task, found.aspect, found.level) == ("pair", "digits", "", "nominal")
    assert (found.units, found.values, found.annotators) == (4, 8, 2)
    assert found.alpha.low <= found.alpha.estimate <= found.alpha.high


def test_an_ordinal_case_by_hand():
    """Ratings 1 1, 2 3, 5 5: n_1 = n_5 = 2, n_2 = n_3 = 1, d(2, 3)² = (1 + 1 − 1)² = 1; squared distances 1–2 and 3–5
    are 1.5², 1–3 and 2–5 2.5², 1–5 4². α = 1 − (2·1/6) / (2·(1 + 2·2·1.5²… )/30)."""
    given = {"p0": (1, 1), "p1": (2, 3), "p2": (5, 5)}
    made = [
        answered("rate", {"ratings": [{"fluent": r}]}, who=w, prompt_id=p, responses=(A,))
        for p, both in given.items()
        for w, r in zip("ab", both)
    ]
    (found,) = agreement(made, dict.fromkeys(given, "t"))
    expected = 2 * (2 * 1.5**2 + 2 * 2.5**2 + 4 * 4**2 + 1 + 2 * 2.5**2 + 2 * 1.5**2) / (6 * 5)
    assert found.alpha.estimate == pytest.approx(1 - (2 / 6) / expected)
    assert (found.aspect, found.level, found.units) == ("fluent", "ordinal", 3)


def test_each_task_and_aspect_is_its_own():
    both = [
        answered("rate", {"ratings": [{"safe": s, "fluent": f}, {"safe": s}]}, who=w, prompt_id=p)
        for w, p, s, f in [("a", "p", 1, 2), ("b", "p", 1, 4), ("a", "q", 5, 2), ("b", "q", 5, 4)]
    ]
    found = {(a.task, a.aspect): a for a in agreement([*both, pair("left")], {"p": "one", "q": "two"})}
    assert set(found) == {("one", "safe"), ("one", "fluent"), ("two", "safe"), ("two", "fluent"), ("one", "")}
    assert found["one", "safe"].undefined == "all answers are equal"
    assert found["one", ""].undefined == "nobody answered the same"
    assert found["one", "safe"].units == 2
    assert found["one", "fluent"].units == 1


def test_the_shown_order_does_not_matter():
    same = [pair("left", who="a"), pair("right", who="b", order=(1, 0))]
    other = [pair("right", who="a", prompt_id="q"), pair("left", who="b", order=(1, 0), prompt_id="q")]
    (found,) = agreement([*same, *other], {"p": "t", "q": "t"})
    assert found.alpha.estimate == pytest.approx(1.0)


def test_a_tie_is_not_both_bad():
    made = [
        pair(c, who=w, prompt_id=p)
        for p, a, b in [("p", "tie", "both_bad"), ("q", "tie", "tie")]
        for w, c in zip("ab", (a, b))
    ]
    assert agreement(made, {"p": "t", "q": "t"})[0].alpha.estimate < 0.1


def test_reviewers_and_repeated_votes_do_not_count_twice():
    made = [
        pair("left", who="a"),
        pair("right", who="a"),
        pair("right", who="b"),
        pair("left", who="r", role="reviewer"),
    ]
    made += [pair("left", who=w, prompt_id="q") for w in "ab"]
    (found,) = agreement(made, {"p": "t", "q": "t"})
    assert (found.values, found.alpha.estimate) == (4, pytest.approx(1.0))


@pytest.mark.parametrize("level", ["nominal", "ordinal"])
def test_a_resample_has_the_librarys_alpha(level):
    """What the bootstrap computes at once is what crowd-kit computes of the units drawn."""
    rng = np.random.default_rng(3)
    drawn = [Label(u, f"o{o}", float(rng.integers(1, 6))) for u in range(30) for o in range(2 + u % 3)]
    weights = rng.multinomial(30, np.full(30, 1 / 30), size=5)
    found = _alphas(weights, _coincidences(drawn), level)
    for row, alpha in zip(weights, found):
        copies = [Label((d.unit, c), d.annotator_id, d.value) for d in drawn for c in range(row[d.unit])]
        assert alpha == pytest.approx(krippendorff_alpha(copies, level))


def test_the_interval_covers_and_narrows():
    few, many = (
        agreement(crowd({"a": 0.9, "b": 0.9}, n, seed=1), {f"p{i}": "t" for i in range(n)})[0].alpha for n in (40, 640)
    )
    truth = 1 - 2 * (2 * 0.9 * 0.1)  # both classes alike: 1 − disagreement / ½
    assert few.low < truth < few.high
    assert many.low < truth < many.high
    assert many.high - many.low < (few.high - few.low) / 2
    assert alpha_interval(labels(FOUR_OBSERVERS), "ordinal", seed=4) == alpha_interval(
        labels(FOUR_OBSERVERS), "ordinal", seed=4
    )


def test_pairwise_agreement_counts_comparisons():
    made = [
        answered("rank", {"ranks": [1, 2, 3]}, who="a", responses=(A, B, C)),
        answered("rank", {"ranks": [1, 2, 3]}, who="b", responses=(A, B, C), order=(0, 2, 1)),
        pair("left", who="c", prompt_id="q"),
        pair("left", who="a", prompt_id="q"),
    ]
    overall, each = pairwise_agreement(made)
    assert [(p.first, p.second, p.agreed.estimate, p.shared) for p in each] == [
        ("a", "b", pytest.approx(2 / 3), 3),
        ("a", "c", 1.0, 1),
    ]
    assert (overall.agreed.estimate, overall.shared) == (0.75, 4)
    assert pairwise_agreement([pair("left")])[0].agreed is None
