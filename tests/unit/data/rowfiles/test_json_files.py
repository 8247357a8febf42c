"""JSON files are read as they are laid out: a record per line, a list, an object with records inside."""

import json

import pytest

from mmrlhf_ray.config import SourceConfig
from mmrlhf_ray.data.rowfiles import open_rows
from mmrlhf_ray.errors import DataError


def rows_of(path):
    reader = open_rows(SourceConfig(path=str(path)))
    rows = [row for fragment in reader.fragments() for _, row in reader.read(fragment)]
    return [json.loads(row) if isinstance(row, bytes) else row for row in rows]


def test_each_json_file_is_read_as_it_is_laid_out(tmp_path):
    rows = [{"n": n} for n in range(6)]
    (tmp_path / "a.json").write_text(json.dumps(rows[:2], indent=1))
    (tmp_path / "b.json").write_text("\n".join(map(json.dumps, rows[2:4])))
    (tmp_path / "c.json").write_text(json.dumps(rows[4:]))
    assert rows_of(tmp_path) == rows
    (tmp_path / "set").mkdir()
    (tmp_path / "set/a.jsonl").write_text(json.dumps(rows[:2], indent=1))
    (tmp_path / "set/b.jsonl").write_text("\n".join(map(json.dumps, rows[2:])))
    assert rows_of(tmp_path / "set") == rows


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_manifests_inside_an_object(tmp_path, name, indent):
    notes = [{"id": 7, "image_id": 1, "caption": "A cat."}, {"id": 8, "image_id": 2, "caption": "A dog."}]
    coco = {"info": {}, "images": [{"id": 1, "file_name": "1.jpg"}, {"id": 2, "file_name": "2.jpg"}]}
    (tmp_path / name).write_text(json.dumps(coco | {"annotations": notes}, indent=indent))
    assert rows_of(tmp_path / name) == [
        {"image": "1.jpg", "annotation_id": 7, "image_id": 1, "caption": "A cat."},
        {"image": "2.jpg", "annotation_id": 8, "image_id": 2, "caption": "A dog."},
    ]
    asked = {"id": "q", "question": "Who?", "answers": [{"text": "Ada", "answer_start": 0}]}
    squad = {"version": "1.1", "data": [{"title": "t", "paragraphs": [{"context": "Ada did.", "qas": [asked] * 300}]}]}
    (tmp_path / f"b{name}").write_text(json.dumps(squad, indent=indent))
    found = rows_of(tmp_path / f"b{name}")
    assert found == [{"context": "Ada did.", "title": "t", **asked}] * 300


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (
            {"version": 1, "data": [{"a": 1}, {"a": 2}]},
            "an object, not a list of records; its key data holds a list of 2",
        ),
        ({"images": [{"id": 1}], "annotations": [{"bbox": [1]}]}, "COCO annotations without a caption"),
        ({"data": [{"paragraphs": [{"context": "a"}]}]}, "not laid out as SQuAD is"),
    ],
)
def test_objects_that_are_no_records(tmp_path, value, reason, indent):
    (tmp_path / "a.json").write_text(json.dumps(value, indent=indent))
    with pytest.raises(DataError, match=reason):
        rows_of(tmp_path / "a.json")


def test_one_record_on_several_lines_is_an_object_and_on_one_line_a_record(tmp_path):
    for record in ({"query": "a", "turns": [{"b": 1}]}, {"prompt": "a", "data": [{"b": 1}]}):
        (tmp_path / "a.json").write_text(json.dumps(record))
        assert rows_of(tmp_path / "a.json") == [record]
    (tmp_path / "a.json").write_text(json.dumps(record, indent=1))
    with pytest.raises(DataError, match="holds an object, not a list of records"):
        rows_of(tmp_path / "a.json")


def test_records_over_several_lines_are_refused_at_once(tmp_path):
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"prompt": "a"}, indent=1) for _ in range(3)))
    with pytest.raises(DataError, match=r"a\.jsonl has records that go over several lines"):
        rows_of(tmp_path / "a.jsonl")


def test_a_broken_first_line_is_a_row(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a": \n{"a": 2}\n')
    assert len(open_rows(SourceConfig(path=str(tmp_path / "a.jsonl"))).fragments()) == 1
