"""Annotations to records: every shown order, several annotators, ties, aspects; nothing loses its source."""

import json
from itertools import permutations

import pytest

from mmrlhf_ray.errors import DataError
from mmrlhf_ray.feedback.annotations import annotations_of, annotations_table, as_listed
from mmrlhf_ray.feedback.labels.derive import (
    ORIGIN,
    DemonstrationRules,
    PreferenceRules,
    RankingRules,
    derive_demonstrations,
    derive_preferences,
    derive_rankings,
)
from tests.unit.feedback.people import A, B, C, answered, crowd, pair, prompts


def origin(row):
    return json.loads(row["extras"])[ORIGIN]


def preferences(votes, **rules):
    return derive_preferences(votes, prompts(), PreferenceRules(**rules)).to_pylist()


@pytest.mark.parametrize("order", permutations(range(4)))
def test_each_order_of_four_is_undone_once(order):
    """Whatever stood where: somebody who ranks by the text says the same of each text."""
    texts = ("w best", "z second", "y third", "x last")
    shown = [texts[i] for i in order]
    wanted = {"w best": 1, "z second": 2, "y third": 3, "x last": 4}
    ranked = answered("rank", {"ranks": [wanted[t] for t in shown]}, responses=texts, order=order)
    rated = answered("rate", {"ratings": [{"safe": 6 - wanted[t]} for t in shown]}, responses=texts, order=order)
    assert ranked.ranks == (1, 2, 3, 4)
    assert rated.aspects == {"safe": (5, 4, 3, 2)}
    for made in (ranked, rated):
        found = {(row["chosen"], row["rejected"]) for row in preferences([made])}
        assert found == {(a, b) for a in texts for b in texts if wanted[a] < wanted[b]}
    (row,) = derive_rankings([ranked, rated], prompts()).to_pylist()
    assert dict(zip(row["responses"], row["ranks"])) == wanted
    assert json.loads(row["aspects"]) == {"safe": [5, 4, 3, 2]}


@pytest.mark.parametrize("order", permutations(range(2)))
@pytest.mark.parametrize("side", [0, 1])
def test_each_side_of_a_pair(order, side):
    (row,) = preferences([pair(("left", "right")[side], order=order)])
    assert row["chosen"] == (A, B)[order[side]]
    assert row["rejected"] == (A, B)[order[1 - side]]


def test_an_order_that_is_no_permutation_is_refused():
    with pytest.raises(DataError, match="each of 0 … 1 once"):
        as_listed([1, 2], [0, 0])


def test_votes_are_counted_whatever_the_kind():
    votes = [
        pair("left", who="a", annotation_id="v1"),
        pair("right", who="b", order=(1, 0), annotation_id="v2"),
        answered("rank", {"ranks": [3, 1, 2]}, who="c", responses=(C, B, A), annotation_id="v3"),
        answered("rate", {"ratings": [{"safe": 3}, {"safe": 3}]}, who="d", annotation_id="v4"),
        pair("both_bad", who="e", annotation_id="v5"),
    ]
    found = {(row["chosen"], row["rejected"]): row for row in preferences(votes)}
    row = found[A, B]
    assert row["margin"] == pytest.approx((2 - 1) / 5)
    assert origin(row) == {
        "annotation_ids": ["v1", "v2", "v3", "v4", "v5"],
        "annotators": 5,
        "kinds": ["pair", "rank", "rate"],
        "for": 2,
        "against": 1,
        "tied": 2,
        "consensus": "majority",
    }
    assert (A, C) in found
    assert (B, C) in found
    assert len(found) == 3


def test_pairs_without_a_winner_give_no_row():
    assert preferences([pair("tie"), pair("both_bad", who="b")]) == []
    assert preferences([pair("left", who="a"), pair("right", who="b")]) == []
    assert preferences([pair("left", responses=(A, A))]) == []
    assert preferences([pair("left")], min_votes=2) == []
    votes = [pair("left", who="a"), pair("left", who="b"), pair("right", who="c")]
    assert len(preferences(votes, min_margin=0.33)) == 1
    assert preferences(votes, min_margin=1 / 3) == []


def test_margins():
    rated = [
        answered("rate", {"ratings": [{"safe": 5, "fluent": 4}, {"safe": 1, "fluent": None}]}, who="a"),
        answered("rate", {"ratings": [{"safe": 4, "fluent": 2}, {"safe": 2, "fluent": 2}]}, who="b"),
    ]
    assert preferences(rated)[0]["margin"] == 1.0
    assert preferences(rated, margin="rating")[0]["margin"] == pytest.approx(((5 - 1) + (2 + 0) / 2) / 2 / 4)
    assert preferences(rated, margin="none")[0]["margin"] == 0.0
    with pytest.raises(DataError, match="have no ratings"):
        preferences([pair("left")], margin="rating")


def test_gold_items_and_overruled_votes_are_left_out():
    votes = [pair("left", who=w) for w in "ab"]
    decision = pair("right", who="r", role="reviewer", annotation_id="decision")
    (row,) = preferences([*votes, decision])
    assert (row["chosen"], origin(row)["annotation_ids"]) == (B, ["decision"])
    assert preferences([pair("left", gold=True)]) == []


def test_dawid_skene_decides():
    people = {"expert": 0.98, "expert2": 0.98, "g1": 0.5, "g2": 0.5, "g3": 0.5}
    votes = crowd(people, 150, seed=0)
    votes += [pair("left" if who.startswith("e") else "right", who=who, prompt_id="z") for who in people]
    asked = prompts("z", *(f"p{i}" for i in range(150)))
    rows = {
        method: {row["prompt_id"]: row for row in derive_preferences(votes, asked, PreferenceRules(method)).to_pylist()}
        for method in ("majority", "dawid_skene")
    }
    assert rows["majority"]["z"]["chosen"] == B
    assert rows["dawid_skene"]["z"]["chosen"] == A
    assert origin(rows["dawid_skene"]["z"])["for"] == 2
    assert 0.9 < rows["dawid_skene"]["z"]["margin"] <= 1


def test_a_correction_is_better_and_keeps_its_segments():
    made = answered("correct", {"text": "the image shows 1 ."}, responses=("the image shows 7 .",), annotation_id="c")
    (row,) = preferences([made])
    assert (row["chosen"], row["rejected"], row["margin"]) == ("the image shows 1 .", "the image shows 7 .", 1.0)
    assert origin(row)["segments"] == [
        {"start": 16, "end": 17, "new_start": 16, "new_end": 17, "removed": "7", "added": "1"}
    ]
    unchanged = answered("correct", {"text": A}, responses=(A,))
    assert preferences([unchanged]) == []


def test_rankings_are_merged_and_say_how_far_people_differed():
    made = [
        answered("rank", {"ranks": [1, 2, 3]}, who="a", responses=(A, B, C), annotation_id="r1"),
        answered("rank", {"ranks": [1, 1, 3]}, who="b", responses=(A, B, C), order=(1, 0, 2), annotation_id="r2"),
        answered("rank", {"ranks": [1, 2, 3]}, who="c", responses=(B, A, C), annotation_id="r3"),
        answered("rate", {"ratings": [{"safe": 5}, {"safe": 2}, {}]}, who="d", responses=(A, B, C), annotation_id="r4"),
        answered("rate", {"ratings": [{"safe": 3}, {}, {}]}, who="e", responses=(A, B, C), annotation_id="r5"),
    ]
    (row,) = derive_rankings(made, prompts()).to_pylist()
    assert (row["responses"], row["ranks"]) == ([A, B, C], [1, 1, 2])
    assert json.loads(row["aspects"]) == {"safe": [4, 2, None]}
    assert origin(row)["annotation_ids"] == ["r1", "r2", "r3", "r4", "r5"]
    assert origin(row)["ranked_by"] == 3
    assert origin(row)["rank_sd"] == pytest.approx([2**0.5 / 3, 2**0.5 / 3, 0])
    assert origin(row)["aspect_sd"] == {"safe": [1.0, 0.0, None]}
    (weighed,) = derive_rankings(made, prompts(), RankingRules(weights={"c": 0.1})).to_pylist()
    assert weighed["ranks"] == [1, 2, 3]
    unheard = RankingRules(weights={"a": 0.0, "d": 0.0})
    assert derive_rankings([made[0], made[3]], prompts(), unheard).num_rows == 0
    assert derive_rankings(made[:1], prompts(), RankingRules(min_annotators=2)).num_rows == 0


def test_ratings_alone_are_a_ranking_without_ranks():
    (row,) = derive_rankings([answered("rate", {"ratings": [{"safe": 5}, {"safe": 2}]})], prompts()).to_pylist()
    assert (row["ranks"], json.loads(row["aspects"])) == ([], {"safe": [5, 2]})
    single = answered("rate", {"ratings": [{"safe": 5}]}, responses=(A,))
    assert derive_rankings([single], prompts()).num_rows == 0


def test_demonstrations():
    made = [
        answered("demonstrate", {"text": "Seven."}, responses=(), annotation_id="d"),
        answered("correct", {"text": "Eight."}, responses=(A,), annotation_id="c1", who="a"),
        answered("correct", {"text": "Eight."}, responses=(B,), annotation_id="c2", who="b"),
        pair("both_bad", annotation_id="bb"),
        pair("left"),
    ]
    rows = {row["response"]: row for row in derive_demonstrations(made, prompts()).to_pylist()}
    assert {text: row["feedback"] for text, row in rows.items()} == {"Seven.": 0.0, "Eight.": 1.0, A: -1.0, B: -1.0}
    assert origin(rows["Eight."])["annotation_ids"] == ["c1", "c2"]
    assert origin(rows["Eight."])["corrected"] == A
    liked = derive_demonstrations(made[1:2], prompts(), DemonstrationRules(correction=0.5)).to_pylist()
    assert liked[0]["feedback"] == 0.5


@pytest.mark.parametrize("derive", [derive_preferences, derive_rankings, derive_demonstrations])
def test_a_missing_prompt_is_named(derive):
    with pytest.raises(DataError, match="v9.*'q' is not among the 1 prompts"):
        derive([pair("both_bad", prompt_id="q", annotation_id="v9")], prompts())


def test_extras_of_the_prompt_stay():
    row = derive_preferences([pair("left")], prompts(extras='{"answer": "7"}')).to_pylist()[0]
    assert json.loads(row["extras"])["answer"] == "7"
    with pytest.raises(DataError, match="rename that key"):
        derive_preferences([pair("left")], prompts(extras=f'{{"{ORIGIN}": 1}}'))


def test_annotations_survive_their_table():
    made = [
        pair("left", order=(1, 0), milliseconds=3, created="2026-01-01T00:00:00+00:00"),
        answered("rate", {"ratings": [{"safe": 5}, {"safe": None}], "critique": "Blurred."}),
        answered("spans", {"spans": [[0, 3, "wrong"]]}, responses=(A,)),
        answered(
            "critique", {"text": "Short.", "critique": "And rude.", "comment": "Loading was slow."}, responses=(A,)
        ),
    ]
    assert annotations_of(annotations_table(made)) == made
    assert made[3].critique == "Short.\nAnd rude."


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ranks": (1,)}, "ranks expects one entry for each of the 2"),
        ({"aspects": {"safe": (1, 2, 3)}}, "'safe'.*expects one entry"),
        ({"order_shown": (0, 2)}, "order_shown expects different indices below 2"),
    ],
)
def test_rows_that_do_not_fit_are_named(change, message):
    with pytest.raises(DataError, match=message):
        annotations_of(annotations_table([pair("left", **change)]))
