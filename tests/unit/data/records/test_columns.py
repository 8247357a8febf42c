"""Keys of rows under other names, and tables of texts as rows."""

import json

import pytest

from mmrlhf_ray.config import DataConfig
from mmrlhf_ray.data.errors import RowError
from mmrlhf_ray.data.records.columns import object_of, renamed
from mmrlhf_ray.data.records.readers import read_records
from mmrlhf_ray.data.records.rows import open_sources
from mmrlhf_ray.data.rowfiles.base import Cells
from mmrlhf_ray.errors import DataError
from mmrlhf_ray.schema import DEMONSTRATION, PREFERENCE, PROMPT
from tests.unit.tiny import noise, picture

ALPACA = {"instruction": "prompt", "input": "prompt", "output": "response"}


@pytest.fixture
def read(tmp_path):
    """(told format, records) of rows, or of the text of a table, under other names."""
    (tmp_path / "a.png").write_bytes(picture(1))
    (tmp_path / "a.wav").write_bytes(noise(1, 0.2))

    def run(rows, schema, columns=None, name="rows.jsonl"):
        text = rows if isinstance(rows, str) else "\n".join(map(json.dumps, rows))
        (tmp_path / name).write_text(text)
        config = DataConfig(path=str(tmp_path / name), columns=columns or {})
        found = read_records(config, schema, tmp_path / "run").records.to_pylist()
        return open_sources(config)[0].form.name, found

    return run


def asked(record):
    (message,) = json.loads(record["messages"])
    return [part.get("text", part["type"]) for part in message["content"]]


# The layouts of docs/data.md


def test_alpaca(read):
    rows = [
        {"instruction": "Add.", "input": "1 and 2", "output": "3"},
        {"instruction": "Say hello.", "input": "", "output": "Hello."},
        {"instruction": "Say no.", "output": "No.", "source": "me"},
    ]
    _, found = read(rows, DEMONSTRATION, ALPACA)
    assert [(asked(row), row["response"]) for row in found] == [
        (["Add.\n1 and 2"], "3"),
        (["Say hello."], "Hello."),
        (["Say no."], "No."),
    ]
    assert [json.loads(row["extras"]) for row in found] == [{}, {}, {"source": "me"}]


def test_alpaca_with_a_system_prompt_and_preferences(read):
    rows = [{"instruction": "Hi", "input": "", "system": "Be brief.", "good": "Hi.", "bad": "Well …"}]
    columns = {"instruction": "prompt", "input": "prompt", "good": "chosen", "bad": "rejected"}
    _, (found,) = read(rows, PREFERENCE, columns)
    assert [message["role"] for message in json.loads(found["messages"])] == ["system", "user"]
    assert (found["chosen"], found["rejected"]) == ("Hi.", "Well …")


def test_query_and_response(read):
    _, (found,) = read([{"query": "2 + 2?", "response": "4"}], DEMONSTRATION, {"query": "prompt"})
    assert (asked(found), found["response"]) == (["2 + 2?"], "4")


def test_earlier_turns_in_a_key_of_their_own_are_not_dropped(read):
    rows = [{"query": "And 3?", "response": "9", "history": [["Square 2?", "4"]]}]
    _, (found,) = read(rows, DEMONSTRATION, {"query": "prompt"})
    assert [message["role"] for message in json.loads(found["messages"])] == ["user", "assistant", "user"]
    assert json.loads(found["extras"]) == {}
    with pytest.raises(DataError, match=r"history\[0\] is not \[question, answer\]"):
        read([rows[0] | {"history": [{"q": "a"}]}], DEMONSTRATION, {"query": "prompt"})
    rows = [{"query": "2 + 2?", "response": "4", "history": []}, {"query": "1?", "response": "1", "history": "Rome"}]
    assert len(read(rows, DEMONSTRATION, {"query": "prompt"})[1]) == 2


def test_easy_r1(read):
    rows = [{"problem": "<image>What is x?", "answer": "3", "images": ["a.png"]}]
    _, (found,) = read(rows, PROMPT, {"problem": "prompt", "answer": "ground_truth"})
    assert asked(found) == ["image", "What is x?"]
    assert json.loads(found["extras"]) == {"ground_truth": "3"}


@pytest.mark.parametrize("image", ["a.png", ["a.png"]])
def test_visual_questions(read, image):
    rows = [{"question": "Which colour?", "answer": "Red.", "image": image, "question_id": 7}]
    _, (found,) = read(rows, DEMONSTRATION, {"question": "prompt", "answer": "response"})
    assert (asked(found), found["response"]) == (["image", "Which colour?"], "Red.")
    assert json.loads(found["extras"]) == {"question_id": 7}


def test_captions_and_transcripts(read):
    form, (found,) = read([{"img": "a.png", "blip": "A dot."}], DEMONSTRATION, {"img": "image", "blip": "caption"})
    assert (form, asked(found)[0], found["response"]) == ("captions", "image", "A dot.")
    form, (found,) = read([{"wav": "a.wav", "said": "Hm."}], DEMONSTRATION, {"wav": "audio", "said": "text"})
    assert (form, asked(found)[0], found["response"]) == ("transcripts", "audio", "Hm.")


def test_a_column_is_left_out(read, tmp_path):
    rows = '{"prompt": "a", "when": NaN}'
    with pytest.raises(DataError, match="NaN"):
        read(rows, PROMPT)
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"prompt": ["a"], "x": [float("nan")], "y": [b"z"]}), tmp_path / "rows.parquet")
    config = DataConfig(path=str(tmp_path / "rows.parquet"))
    with pytest.raises(DataError, match=r"leave it out with data.columns \(--columns x=\)"):
        read_records(config, PROMPT, tmp_path / "run")
    config = config.model_copy(update={"columns": {"x": None, "y": None}})
    assert read_records(config, PROMPT, tmp_path / "run").records["extras"].to_pylist() == ["{}"]


# Names


@pytest.mark.parametrize(
    ("row", "columns", "named"),
    [
        ({"a": 1, "b": 2}, {"a": "b", "b": "a"}, {"a": 2, "b": 1}),
        ({"a": 1}, {"b": "c"}, {"a": 1}),
        ({"a": 1, "b": 2}, {"a": None}, {"b": 2}),
        ({"a": "x", "b": "y"}, {"b": "c", "a": "c"}, {"c": "y\nx"}),
        ({"a": [1]}, {"a": "c", "b": "c"}, {"c": [1]}),
        ({"a": ""}, {"a": "b"}, {"b": ""}),
    ],
)
def test_new_names(row, columns, named):
    assert renamed(row, columns) == named


@pytest.mark.parametrize(
    ("row", "columns", "reason"),
    [
        ({"a": 1, "b": 2}, {"a": "b"}, "the name b to another key, and the row has that already; .*--columns b="),
        ({"a": 1, "b": "x"}, {"a": "c", "b": "c"}, "c of several keys, which are not all text"),
    ],
)
def test_names_that_do_not_fit(row, columns, reason):
    with pytest.raises(RowError, match=reason):
        renamed(row, columns)


@pytest.mark.parametrize("form", [None, "mmrlhf"])
def test_a_key_that_no_row_has_is_an_error(tmp_path, form):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b", "note": null}\n')
    config = DataConfig(path=str(tmp_path / "rows.jsonl"), format=form, columns={"question": "prompt", "note": None})
    with pytest.raises(DataError, match="data.columns names question, which no row has; the rows have prompt"):
        open_sources(config)


def test_names_of_a_mixture_stand_in_its_sources():
    with pytest.raises(ValueError, match="format, split and columns of a mixture"):
        DataConfig(sources=({"path": "a"},), columns={"a": "b"})
    config = DataConfig(sources=({"path": "a", "columns": {"a": "b"}}, {"path": "b"}))
    assert [source.columns for source in config.mixture] == [{"a": "b"}, {}]


def test_a_configuration_with_names_can_be_a_key_of_what_workers_keep():
    configs = [DataConfig(path="a", columns={"a": name}) for name in ("b", "b", None)]
    assert hash(configs[0]) == hash(configs[1])
    assert len(set(configs)) == 2
    assert hash(DataConfig(path="a").mixture) == hash(DataConfig(path="a").mixture)
    again = DataConfig.model_validate_json(configs[0].model_dump_json())
    assert (again, hash(again)) == (configs[0], hash(configs[0]))


# Tables of texts


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv"])
def test_tables_of_texts_are_read_as_records(read, name):
    table = 'prompt,chosen,rejected,margin,image,n\n"Which, do you think?",Red.,Blue.,0.5,a.png,3\nHi?,1,2,,,\n'
    _, found = read(
        table.replace(",", "\t").replace("Which\t", "Which,") if name == "rows.tsv" else table, PREFERENCE, name=name
    )
    assert [asked(row) for row in found] == [["image", "Which, do you think?"], ["Hi?"]]
    assert [(row["chosen"], row["rejected"], row["margin"]) for row in found] == [("Red.", "Blue.", 0.5), ("1", "2", 0)]
    assert [json.loads(row["extras"]) for row in found] == [{"n": "3"}, {}]


def test_a_bad_row_of_a_table_is_named(read):
    with pytest.raises(DataError, match="rows.csv, row 1: the row has 1 fields, the first row names 2"):
        read("prompt,response\na,b\nc\n", DEMONSTRATION, name="rows.csv")


@pytest.mark.parametrize(
    ("key", "cell", "value"),
    [
        ("response", "[1, 2]", "[1, 2]"),
        ("response", "42", "42"),
        ("images", '["a.png"]', ["a.png"]),
        ("images", "a.png", ["a.png"]),
        ("videos", "[a].mp4", ["[a].mp4"]),
        ("messages", '[{"role": "user", "content": "a"}]', [{"role": "user", "content": "a"}]),
        ("feedback", "-1", -1),
        ("margin", "0.25", 0.25),
        ("feedback", "good", "good"),
        ("label", "True", True),
        ("label", "false", False),
        ("label", "1", "1"),
        ("responses", "[a", "[a"),
    ],
)
def test_what_cells_stand_for(key, cell, value):
    assert object_of(Cells({"x": cell}), {"x": key}) == {key: value}
    assert object_of({"x": cell}, {"x": key}) == {key: cell}
