"""Rows of the ecosystem are read as they are meant, and their format is told."""

import json

import pytest

from mmrlhf_ray.data.formats import Kind, as_raw_row, format_named, format_of
from mmrlhf_ray.errors import DataError
from tests.unit.data.formats.example import ASKED, CHAT, ONE, Row
from tests.unit.data.formats.examples import EXAMPLES, PAIR


@pytest.mark.parametrize(("name", "kind", "row", "expected"), EXAMPLES)
def test_a_row_of_the_ecosystem(name: str, kind: Kind, row: Row, expected: Row) -> None:
    assert as_raw_row(row, format_named(name), kind) == expected


@pytest.mark.parametrize(("name", "kind", "row", "expected"), EXAMPLES)
def test_its_format_is_told(name: str, kind: Kind, row: Row, expected: Row) -> None:
    if (
        "more_helpful_response_id" in row and name == "align_anything_safer"
    ):  # the more helpful response is as good a reading
        name, expected = (
            "align_anything",
            expected
            | {
                "chosen": "Seven.",
                "rejected": "One.",
                "extras": {"safer_response_id": 1},
            },
        )
    found = format_of([row, row])
    assert found.name == name or kind in found.reads
    assert as_raw_row(row, found, kind) == expected


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "a", "response": "b", "feedback": 1},
        {"prompt": "<image> a", "images": ["a.png"], "chosen": "b", "rejected": "c", "margin": 1, "truth": 3},
        {"prompt": "a", "responses": ["b", "c"], "ranks": [1, 2]},
        {"messages": ASKED, "images": ["a.png"], "responses": ["b", "c"], "aspects": {"x": [1, 2]}},
        {"messages": [{"role": "user", "content": [{"type": "image", "image": "a.png"}]}], "response": "b"},
        {"messages": json.dumps(ASKED), "media_ids": ["x"], "modality": "image", "extras": "{}"},
        {"prompt": "a", "label": True, "margin": 3},
        {"prompt": 1},
    ],
)
def test_rows_of_our_own_are_told(row: Row) -> None:
    found = format_of([row])
    assert found.name == "mmrlhf"
    assert as_raw_row(row, found, "PROMPT") == row


def test_rows_that_fit_nothing_are_passed_over() -> None:
    assert format_of([{"foo": 1}, {"conversations": [], "image": "a"}]).name == "llava"


def test_a_format_that_reads_more_is_told() -> None:
    """Texts say nothing; the row with a tag does."""
    plain = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    tagged = {"messages": [{"role": "user", "content": "<image>a"}], "images": ["a.png"]}
    assert format_of([plain, tagged]).name == "ms_swift"
    part = {"type": "image_url", "image_url": {"url": "a.png"}}
    assert format_of([plain, {"messages": [{"role": "user", "content": [part]}]}]).name == "openai"


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"foo": 1, "bar": 2}], "no format fits the rows, whose keys are bar, foo; known formats: mmrlhf, trl"),
        ([], "whose keys are none"),
        (
            [{"prompt": "a", "response": "b"}, {"question": "a", **PAIR}],
            "row 0 and those after it are mmrlhf, row 1 is rlaif_v; say which",
        ),
    ],
)
def test_what_cannot_be_told_names_the_candidates(rows: list[Row], said: str) -> None:
    with pytest.raises(DataError, match=said):
        format_of(rows)


def test_formats_that_read_rows_differently_are_named() -> None:
    row = {"messages": [*CHAT, *ONE], "rejected_response": "b", "conversations": [{"from": "human", "value": "c"}]}
    with pytest.raises(
        DataError, match="the formats ms_swift, llamafactory, llava read the rows differently, row 0 first; say"
    ):
        format_of([row])


def test_an_unknown_name() -> None:
    with pytest.raises(DataError, match="format 'alpaca' is unknown; expected one of mmrlhf, trl, ms_swift"):
        format_named("alpaca")
