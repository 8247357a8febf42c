"""Record → row → record, for every cell of the table in docs/data.md."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmrlhf_ray.data.errors import RowError
from mmrlhf_ray.data.formats import (
    FORMATS,
    KINDS,
    Format,
    Kind,
    as_raw_row,
    as_written_row,
    format_named,
    format_of,
)
from mmrlhf_ray.pipelines.data.writers import ParquetRows, as_columns
from tests.unit.data.formats.shapes import EXTRAS, MESSAGES, as_table_row, media_names, read_back, record

CELLS = [(form, kind) for form in FORMATS for kind in KINDS if kind in form.writes]
FILES = [(*cell, layout) for cell in CELLS for layout in ("jsonl", "parquet") if layout == "jsonl" or cell[0].parquet]
ONE_QUESTION = {"places", "both", "turns", "tag", "silent"}
REFUSED = {
    "mmrlhf": set(),
    "trl": set(),
    "ms_swift": {"tag"},
    "llamafactory": {"tag"},
    "openai": set(),
    "llava": {"audio", "both", "tag"},
    "rlaif_v": ONE_QUESTION | {"audio", "video"},
    "align_anything": ONE_QUESTION,
    "align_anything_safer": ONE_QUESTION,
    "ultrafeedback": ONE_QUESTION | {"audio", "video"},
    "verl": {"tag"},
}
"""Shapes that a format cannot express."""


def written(form: Format, kind: Kind, of: dict[str, Any]) -> dict[str, Any]:
    row = as_written_row(as_table_row(of), form, kind, media_names(of))
    again: dict[str, Any] = json.loads(json.dumps(row, allow_nan=False))
    assert again == row, "what is written must be plain JSON"
    return again


def cell_id(value: object) -> str:
    return value if isinstance(value, str) else getattr(value, "name", "")


@pytest.mark.parametrize("shape", MESSAGES)
@pytest.mark.parametrize(("form", "kind"), CELLS, ids=cell_id)
def test_what_is_written_reads_as_the_same_record(form: Format, kind: Kind, shape: str) -> None:
    of = record(kind, shape)
    if shape in REFUSED[form.name]:
        with pytest.raises(RowError, match=f"{form.name} cannot express"):
            written(form, kind, of)
        return
    assert read_back(as_raw_row(written(form, kind, of), form, kind), kind) == of


@pytest.mark.parametrize(("form", "kind"), CELLS, ids=cell_id)
def test_the_format_of_what_is_written_is_told(form: Format, kind: Kind) -> None:
    row = written(form, kind, record(kind, "image"))
    found = format_of([row, row])
    assert kind in found.reads
    assert read_back(as_raw_row(row, found, kind), kind) == record(kind, "image")


@pytest.mark.parametrize(("form", "kind"), [cell for cell in CELLS if cell[0].parquet], ids=cell_id)
def test_rows_survive_parquet(form: Format, kind: Kind) -> None:
    """Beside a row of other columns, so that Arrow fills in nulls."""
    records = [record(kind, "image", extras={"truth": "7"}), record(kind, "text", extras={"other": 1})]
    rows = [written(form, kind, of) for of in records]
    table = pa.concat_tables([pa.Table.from_pylist([row]) for row in rows], promote_options="permissive")
    assert [read_back(as_raw_row(row, form, kind), kind) for row in table.to_pylist()] == records


@pytest.mark.parametrize("form", FORMATS, ids=cell_id)
def test_extras_named_like_keys_of_the_format_stay_extras(form: Format) -> None:
    everything = ["messages", "prompt", "images", "image", "chosen", "response", "label", "margin", "task", "question"]
    everything += ["conversations", "completions", "reward_model", "data_source", "system", "prompt_id", "input"]
    for kind in form.writes:
        of = record(kind, "image", extras={key: f"extra {key}" for key in everything})
        if form.name == "ultrafeedback":
            with pytest.raises(RowError, match="an extra completions"):
                written(form, kind, of)
            of = record(kind, "image", extras={key: key for key in everything if key != "completions"})
        assert read_back(as_raw_row(written(form, kind, of), form, kind), kind) == of


@pytest.mark.parametrize("name", ["mmrlhf", "trl", "ms_swift"])
def test_margins(name: str) -> None:
    form, of = format_named(name), record("PREFERENCE", "image", margin=0.6)
    assert of["margin"] == pytest.approx(0.6)
    assert read_back(as_raw_row(written(form, "PREFERENCE", of), form, "PREFERENCE"), "PREFERENCE") == of


@pytest.mark.parametrize("name", ["llamafactory", "openai", "rlaif_v", "align_anything", "align_anything_safer"])
def test_margins_are_never_lost(name: str) -> None:
    with pytest.raises(RowError, match=r"margin 0\.6"):
        written(format_named(name), "PREFERENCE", record("PREFERENCE", "image", margin=0.6))


@pytest.mark.parametrize("shape", ["text", "image"])
@pytest.mark.parametrize("feedback", [1.0, -1.0])
@pytest.mark.parametrize("name", ["mmrlhf", "trl", "ms_swift", "llamafactory"])
def test_feedback(name: str, feedback: float, shape: str) -> None:
    form, of = format_named(name), record("DEMONSTRATION", shape, feedback=feedback)
    row = written(form, "DEMONSTRATION", of)
    assert read_back(as_raw_row(row, form, "DEMONSTRATION"), "DEMONSTRATION") == of
    assert read_back(as_raw_row(row, format_of([row]), "DEMONSTRATION"), "DEMONSTRATION") == of


@pytest.mark.parametrize("name", ["trl", "ms_swift", "llamafactory", "openai", "llava"])
def test_feedback_between_yes_and_no_is_refused(name: str) -> None:
    with pytest.raises(RowError, match=r"feedback 0\.5"):
        written(format_named(name), "DEMONSTRATION", record("DEMONSTRATION", "image", feedback=0.5))


def test_ranks_of_ratings() -> None:
    of = record("RANKING", "image", ranks=[1, 2, 2])
    form = format_named("mmrlhf")
    assert read_back(as_raw_row(written(form, "RANKING", of), form, "RANKING"), "RANKING") == of
    with pytest.raises(RowError, match="cannot express ranks"):
        written(format_named("ultrafeedback"), "RANKING", of)


@pytest.mark.parametrize("form", FORMATS, ids=cell_id)
def test_kinds_that_a_format_lacks_are_refused(form: Format) -> None:
    for kind in set(KINDS) - form.writes:
        with pytest.raises(RowError, match=f"{form.name} cannot express"):
            written(form, kind, record(kind, "text"))
    for kind in set(KINDS) - form.reads:
        with pytest.raises(RowError, match=f"{form.name} rows hold no"):
            as_raw_row({"prompt": "a"}, form, kind)


@pytest.mark.parametrize("name", ["ms_swift", "llamafactory", "llava"])
def test_answers_that_hold_a_tag_are_refused(name: str) -> None:
    with pytest.raises(RowError, match="the text <audio>"):
        written(format_named(name), "DEMONSTRATION", record("DEMONSTRATION", "text", response="see <audio>"))


def mixed(kind: Kind, form: Format) -> list[dict[str, Any]]:
    """300 texts, then a row of each other shape that the format can express."""
    texts = [record(kind, "text", prompt_id=f"text-{number}") for number in range(300)]
    shapes = ("image", "audio", "video", "both", "places", "turns", "silent")
    return [*texts, *(record(kind, s, prompt_id=s) for s in shapes if s not in REFUSED[form.name])]


@pytest.mark.parametrize(("form", "kind", "layout"), FILES, ids=cell_id)
def test_mixed_rows_are_told_and_read_back(form: Format, kind: Kind, layout: str, tmp_path: Path) -> None:
    records = mixed(kind, form)
    rows = [written(form, kind, of) for of in records]
    if layout == "parquet":
        with ParquetRows(tmp_path / "rows.parquet") as file:
            for row in rows:
                file.write(as_columns(row, EXTRAS.keys(), form))
        rows = pq.read_table(tmp_path / "rows.parquet").to_pylist()
    found = format_of(rows)
    assert [read_back(as_raw_row(row, found, kind), kind) for row in rows] == records


@pytest.mark.parametrize("key", ["image_path", "audio", "file", "system", "tools", "objects", "history"])
@pytest.mark.parametrize(("form", "kind"), CELLS, ids=cell_id)
def test_extras_named_like_a_part_of_the_prompt_stay_extras(form: Format, kind: Kind, key: str) -> None:
    of = record(kind, "text", extras={key: ["a.mp4"] if key != "system" else "a.mp4"})
    row = written(form, kind, of)
    assert read_back(as_raw_row(row, format_of([row]), kind), kind) == of
