"""`mmrlhf data convert`."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from mmrlhf_ray.config import DataConfig
from mmrlhf_ray.data.formats import Kind
from mmrlhf_ray.data.records.readers import read_records
from mmrlhf_ray.errors import DataError
from mmrlhf_ray.pipelines.data import convert as data_convert
from mmrlhf_ray.pipelines.data import writers as data_writers
from mmrlhf_ray.schema import TABLES
from tests.unit.pipelines.folder import bad_rows, demonstrations, media_folder, picture, write_rows


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return media_folder(tmp_path / "data")


def records(config: DataConfig, kind: Kind, tmp_path: Path) -> tuple[list[Any], set[str]]:
    """(records, media_ids) with JSON columns read."""
    read = read_records(config, TABLES[kind], tmp_path / "run")
    assert read.bad_rows == 0
    columns = ("messages", "extras", "aspects")
    rows = [{k: json.loads(v) if k in columns else v for k, v in row.items()} for row in read.records.to_pylist()]
    return rows, set(read.media.column("media_id").to_pylist())


def convert(config: DataConfig, path: Path, form: str, kind: Kind | None = None) -> data_convert.Converted:
    return data_convert.run(config, path, form, kind, strict=True)


@pytest.mark.parametrize(
    ("form", "name"),
    [
        ("trl", "rows.parquet"),
        ("trl", "rows.jsonl"),
        ("ms_swift", "rows.parquet"),
        ("ms_swift", "rows.jsonl"),
        ("llamafactory", "rows.jsonl"),
        ("llamafactory", "rows.parquet"),
        ("mmrlhf", "rows.jsonl"),
        ("mmrlhf", "rows"),
    ],
)
def test_there_and_back(folder: Path, tmp_path: Path, form: str, name: str) -> None:
    config = write_rows(folder, demonstrations())
    done = convert(config, tmp_path / "out" / name, form)
    assert (done.rows, done.media, done.bad) == (6, 4, 0)
    assert str(done) == f"{tmp_path / 'out' / name}: 6 rows, 4 media"
    there = DataConfig(path=str(done.path))
    assert records(there, "DEMONSTRATION", tmp_path) == records(config, "DEMONSTRATION", tmp_path)
    convert(there, tmp_path / "back" / "rows.jsonl", "mmrlhf")
    back = DataConfig(path=str(tmp_path / "back" / "rows.jsonl"))
    assert records(back, "DEMONSTRATION", tmp_path) == records(config, "DEMONSTRATION", tmp_path)


PAIR = {"prompt": "Colour?", "images": ["red.png"], "chosen": "Red.", "rejected": "Blue.", "task": "colour"}
RATED = {
    "prompt": "Colour?",
    "images": ["red.png"],
    "responses": ["Red.", "Blue."],
    "aspects": {"right": [5, 1], "polite": [None, 3]},
}


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize(
    ("form", "kind", "row"),
    [
        ("rlaif_v", "PREFERENCE", PAIR),
        ("align_anything", "PREFERENCE", PAIR),
        ("ultrafeedback", "RANKING", RATED),
        (
            "verl",
            "PROMPT",
            {"prompt": "<image> Sum?", "images": ["red.png"], "ground_truth": "3", "extra_info": {"i": 1}},
        ),
    ],
)
def test_formats_of_one_kind(folder: Path, tmp_path: Path, form: str, kind: Kind, row: Any, suffix: str) -> None:
    config = write_rows(folder, [row, row | {"images": ["blue.png"], "extra": {"x": [1, {"y": None}]}}])
    done = convert(config, tmp_path / "out" / f"rows{suffix}", form)
    assert records(DataConfig(path=str(done.path)), kind, tmp_path) == records(config, kind, tmp_path)
    embedded = suffix == ".parquet"
    assert (tmp_path / "out" / "media").exists() != embedded
    if embedded:
        (column,) = {"image", "images"} & set(pq.read_schema(done.path).names)
        (first, _) = pq.read_table(done.path).column(column).to_pylist()
        image = first[0] if column == "images" else first
        assert image["bytes"] == picture("red")


@pytest.mark.parametrize("form", ["captions", "transcripts", "squad"])
def test_formats_that_are_read_only_are_refused_by_name(folder: Path, tmp_path: Path, form: str) -> None:
    with pytest.raises(DataError, match=f"{form} rows are read only; name another format with --to"):
        convert(write_rows(folder, demonstrations()), tmp_path / "out" / "rows.jsonl", form)


def test_openai_rows_hold_their_media(folder: Path, tmp_path: Path) -> None:
    rows = [row for row in demonstrations() if not row.get("feedback")]
    config = write_rows(folder, rows)
    done = convert(config, tmp_path / "out" / "rows.jsonl", "openai")
    there = DataConfig(path=str(done.path))
    assert records(there, "DEMONSTRATION", tmp_path) == records(config, "DEMONSTRATION", tmp_path)
    assert [p.name for p in done.path.parent.iterdir()] == ["rows.jsonl"]


def test_media_are_named_by_their_content(folder: Path, tmp_path: Path) -> None:
    convert(write_rows(folder, demonstrations()), tmp_path / "out" / "rows.jsonl", "ms_swift")
    files = sorted((tmp_path / "out" / "media").iterdir())
    assert sorted(file.suffix for file in files) == [".png", ".png", ".wav", ".webm"]
    assert all(file.stem == hashlib.sha256(file.read_bytes()).hexdigest() for file in files)
    text = (tmp_path / "out" / "rows.jsonl").read_text()
    assert all(f"media/{file.name}" in text for file in files)


def test_bad_rows_are_left_out_and_listed(folder: Path, tmp_path: Path) -> None:
    unspeakable = {"prompt": "a", "response": "an <image> tag"}
    config = write_rows(folder, [*demonstrations(), *bad_rows(), unspeakable])
    done = data_convert.run(config, tmp_path / "out" / "rows.jsonl", "ms_swift", None, strict=False)
    assert (done.rows, done.bad, len(done.first_bad)) == (7, 6, 5)
    listed = [json.loads(line) for line in (tmp_path / "out" / "rows.jsonl.bad.jsonl").read_text().splitlines()]
    assert [row["row"] for row in listed] == [6, 7, 8, 9, 11, 12]
    assert listed[-1]["reason"].startswith("ms_swift cannot express the text <image>")
    assert "6 bad rows were left out; " in str(done)
    with pytest.raises(DataError, match="6 of 13 rows cannot be converted"):
        convert(config, tmp_path / "strict" / "rows.jsonl", "ms_swift")
    assert list((tmp_path / "strict").iterdir()) == []


def test_no_row_left_is_an_error(folder: Path, tmp_path: Path) -> None:
    config = write_rows(folder, ["{", "{"])
    with pytest.raises(DataError, match="2 of 2 rows cannot be converted"):
        data_convert.run(config, tmp_path / "out" / "rows.jsonl", "mmrlhf", "PROMPT", strict=False)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("name", ["rows.parquet", "rows.jsonl", "tables"])
def test_an_interrupted_conversion_leaves_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(data_convert, "_publish", stop)
    form = "trl" if name == "rows.parquet" else "mmrlhf"
    with pytest.raises(KeyboardInterrupt):
        convert(write_rows(folder, demonstrations()), tmp_path / "out" / name, form)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "form", "said"),
    [
        ("rows.csv", "trl", r"ends in '\.csv'; trl rows go to \.jsonl or \.parquet"),
        ("rows", "trl", r"trl rows go to \.jsonl or \.parquet"),
        ("rows.parquet", "mmrlhf", r"mmrlhf rows go to \.jsonl or a directory"),
        ("rows.parquet", "openai", r"openai rows go to \.jsonl"),
        ("taken.jsonl", "trl", "exists; remove it, or choose another name"),
        ("rows.jsonl", "csv", "format 'csv' is unknown"),
    ],
)
def test_places_that_do_not_suit(folder: Path, name: str, form: str, said: str) -> None:
    (folder / "taken.jsonl").write_text("mine")
    with pytest.raises(DataError, match=said):
        convert(write_rows(folder, demonstrations()), folder / name, form)
    assert (folder / "taken.jsonl").read_text() == "mine"


def test_a_kind_that_the_format_cannot_express(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="rlaif_v cannot express demonstrations; it can preference"):
        convert(write_rows(folder, demonstrations()), tmp_path / "rows.jsonl", "rlaif_v", "DEMONSTRATION")
    with pytest.raises(DataError, match="can be read as demonstration, prompt, expected one of preference"):
        convert(write_rows(folder, demonstrations()), tmp_path / "rows.jsonl", "rlaif_v")


def test_columns_of_several_types_are_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"prompt": "a", "response": "b", "truth": truth} for truth in (1, "one")]
    for at_once in (256, 1):
        monkeypatch.setattr(data_writers, "_ROWS", at_once)
        with pytest.raises(DataError, match=r"columns of one type each: .*; write a \.jsonl file"):
            convert(write_rows(folder, rows), tmp_path / "out" / "rows.parquet", "trl")
    assert list((tmp_path / "out").iterdir()) == []


def test_numbers_beyond_64_bits_and_deep_lists_go_to_parquet_and_back(folder: Path, tmp_path: Path) -> None:
    values = [5, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, [2**70, 1], json.loads("[" * 250 + "]" * 250)]
    rows = [{"prompt": f"q{i}", "response": "b", "id": value} for i, value in enumerate(values)]
    done = convert(write_rows(folder, rows), tmp_path / "out" / "rows.parquet", "trl")
    found, _ = records(DataConfig(path=str(done.path)), "DEMONSTRATION", tmp_path)
    assert [row["extras"]["id"] for row in found] == values


def test_numbers_that_fit_into_no_column_are_said(folder: Path, tmp_path: Path) -> None:
    row = {"data_source": "a", "prompt": [{"role": "user", "content": "a"}], "extra_info": {"id": 2**63}}
    with pytest.raises(DataError, match="do not fit into columns"):
        convert(write_rows(folder, [row]), tmp_path / "rows.parquet", "verl")


@pytest.mark.parametrize("name", ["rows.parquet", "tables"])
def test_rows_written_in_several_goes(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(data_writers, "_ROWS", 2)
    monkeypatch.setattr(data_writers, "_MEDIA_ROWS", 1)
    config = write_rows(folder, demonstrations())
    convert(config, tmp_path / "out" / name, "mmrlhf" if name == "tables" else "trl")
    there = DataConfig(path=str(tmp_path / "out" / name))
    assert records(there, "DEMONSTRATION", tmp_path) == records(config, "DEMONSTRATION", tmp_path)
