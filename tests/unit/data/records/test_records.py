"""Records of several ages, and a choice among them."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mmrlhf_ray.config.data import DataConfig
from mmrlhf_ray.data.records.readers import Records, read_records
from mmrlhf_ray.data.records.rows import open_sources
from mmrlhf_ray.data.records.store import FileStore, LoadedRow
from mmrlhf_ray.errors import DataError
from mmrlhf_ray.schema import DEMONSTRATION, PREFERENCE, RANKING


def read(tmp_path: Path, *rows: dict[str, object]) -> Records:
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    config = DataConfig(path=str(tmp_path / "rows.jsonl"), on_bad_row="quarantine")
    return read_records(config, DEMONSTRATION, tmp_path / "run")


def test_demonstrations_written_before_there_was_feedback_are_read(tmp_path: Path) -> None:
    found = read(tmp_path, {"prompt": "a", "response": "b"})
    pq.write_table(found.records.drop_columns(["feedback"]), tmp_path / "old.parquet")
    old = read_records(DataConfig(path=str(tmp_path / "old.parquet")), DEMONSTRATION, tmp_path / "run")
    assert old.records.equals(found.records)
    assert old.records.column("feedback").to_pylist() == [0.0]


def test_a_choice_of_the_records(tmp_path: Path) -> None:
    rows = [{"prompt": prompt, "response": "b"} for prompt in "acd"]
    kept = read(tmp_path, rows[0], {"prompt": 1}, *rows[1:]).kept([True, False, True])
    assert (kept.records.num_rows, kept.rows, kept.bad_rows) == (2, (0, 3), 1)
    assert "d" in kept.records.column("messages")[1].as_py()
    assert kept.records.schema.equals(DEMONSTRATION, check_metadata=True)
    assert isinstance(kept.records, pa.Table)


@pytest.mark.parametrize(("key", "schema"), [("response", DEMONSTRATION), ("chosen", PREFERENCE), ("ranks", RANKING)])
def test_examples_of_the_documentation_are_read(tmp_path: Path, key: str, schema: pa.Schema) -> None:
    page = (Path(__file__).parents[4] / "docs" / "data.md").read_text()
    (example,) = (line for line in page.splitlines() if line.startswith('{"prompt"') and f'"{key}": ' in line)
    (tmp_path / "pics").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "pics" / "cat.jpg")
    (tmp_path / "rows.jsonl").write_text(example)
    assert read_records(DataConfig(path=str(tmp_path / "rows.jsonl")), schema, tmp_path).records.num_rows == 1


PLAIN = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("last", "feedback"),
    [
        (PLAIN | {"label": False}, -1.0),
        ({"messages": [{"role": "user", "content": "<image>c"}, *PLAIN["messages"][1:]], "images": ["a.png"]}, 0.0),
    ],
)
def test_a_row_after_hundreds_decides_the_format(
    tmp_path: Path, streaming: bool, last: dict[str, object], feedback: float
) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in [*[PLAIN] * 300, last]))
    config = DataConfig(path=str(tmp_path / "rows.jsonl"), streaming=streaming)
    store = FileStore(config, DEMONSTRATION, open_sources(config), seed=0, training=False)
    loaded = list(store.slice(0, store.rows))
    assert all(isinstance(row, LoadedRow) for row in loaded)
    assert [row.record["feedback"] for row in loaded] == [0.0] * 300 + [feedback]
    assert loaded[-1].record["modality"] == ("text" if feedback else "image")


def test_a_row_of_another_format_is_named_with_both(tmp_path: Path) -> None:
    """After the first rows only trl is left, so that the others are not looked at beforehand."""
    only = {"prompt": "a", "completion": "b"}
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in [*[only] * 70, {**PLAIN, "label": True}]))
    config = DataConfig(path=str(tmp_path / "rows.jsonl"))
    with pytest.raises(DataError, match="line 71: its keys are those of ms_swift, the rows before it are trl"):
        read_records(config, DEMONSTRATION, tmp_path / "run")
