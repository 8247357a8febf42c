"""From the table of votes to preferences, counted by hand."""

import pyarrow as pa
import pytest

from mmrlhf_ray.data.records.annotations import annotation_row
from mmrlhf_ray.errors import DataError
from mmrlhf_ray.feedback.annotations import annotations_of
from mmrlhf_ray.feedback.labels.derive import derive_preferences
from mmrlhf_ray.schema import ANNOTATION, PREFERENCE, PROMPT, check


def prompts(*ids: str) -> pa.Table:
    row = {"messages": "[]", "media_ids": ["m"], "task": "t", "modality": "image", "extras": "{}"}
    return pa.Table.from_pylist([row | {"prompt_id": i} for i in ids], schema=PROMPT)


def annotations(*rows: tuple[str, list[str], list[int]], kind: str = "pair") -> pa.Table:
    return pa.Table.from_pylist(
        [
            annotation_row(
                annotation_id=f"a{i}",
                prompt_id=prompt_id,
                responses=responses,
                annotator_id=f"person-{i}",
                kind=kind,
                ranks=ranks,
            )
            for i, (prompt_id, responses, ranks) in enumerate(rows)
        ],
        schema=ANNOTATION,
    )


def pairs(table: pa.Table) -> list[tuple[str, str, str, float]]:
    check(table, PREFERENCE, "test")
    return [(r["prompt_id"], r["chosen"], r["rejected"], round(r["margin"], 4)) for r in table.to_pylist()]


def test_majority_whatever_the_listed_order():
    votes = annotations(("p", ["x", "y"], [1, 2]), ("p", ["y", "x"], [2, 1]), ("p", ["x", "y"], [2, 1]))
    assert pairs(derive_preferences(annotations_of(votes), prompts("p"))) == [("p", "x", "y", 0.3333)]


def test_ties_count_in_the_margin_and_alone_give_nothing():
    votes = annotations(("p", ["x", "y"], [2, 1]), ("p", ["x", "y"], [1, 1]))
    assert pairs(derive_preferences(annotations_of(votes), prompts("p"))) == [("p", "y", "x", 0.5)]
    split = annotations(("p", ["x", "y"], [1, 2]), ("p", ["x", "y"], [2, 1]))
    assert pairs(derive_preferences(annotations_of(split), prompts("p"))) == []
    assert pairs(derive_preferences(annotations_of(annotations(("p", ["x", "y"], [1, 1]))), prompts("p"))) == []


def test_ranking_of_three_is_three_votes():
    ranked = annotations(("p", ["x", "y", "z"], [2, 1, 3]), kind="rank")
    got = pairs(derive_preferences(annotations_of(ranked), prompts("p")))
    assert sorted(got) == [("p", "x", "z", 1.0), ("p", "y", "x", 1.0), ("p", "y", "z", 1.0)]


def test_ranking_with_a_tie_and_a_pair_on_the_same_responses_add_up():
    rows = annotations(("p", ["x", "y", "z"], [1, 1, 2]), ("p", ["y", "x"], [1, 2]))
    got = pairs(derive_preferences(annotations_of(rows), prompts("p")))
    assert sorted(got) == [("p", "x", "z", 1.0), ("p", "y", "x", 0.5), ("p", "y", "z", 1.0)]


def test_prompts_are_kept_apart_and_their_columns_kept():
    rows = annotations(("p", ["x", "y"], [1, 2]), ("q", ["x", "y"], [2, 1]))
    got = derive_preferences(annotations_of(rows), prompts("q", "p"))
    assert pairs(got) == [("p", "x", "y", 1.0), ("q", "y", "x", 1.0)]
    assert got["media_ids"].to_pylist() == [["m"], ["m"]]


def test_equal_texts_and_unranked_rows_give_nothing():
    rows = annotations(("p", ["x", "x"], [1, 2]), ("p", ["x", "y"], []))
    assert pairs(derive_preferences(annotations_of(rows), prompts("p"))) == []


def test_a_prompt_that_is_there_twice_is_refused():
    with pytest.raises(DataError, match="prompt_id must be unique"):
        derive_preferences([], prompts("p", "p"))
