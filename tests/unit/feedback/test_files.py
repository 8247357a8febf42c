"""From an export's files to records, to other tools and back; and the tables of the report."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from typer.testing import CliRunner

from mmrlhf_ray.cli.feedback_files import app
from mmrlhf_ray.config import DataConfig
from mmrlhf_ray.data.records.readers import read_records
from mmrlhf_ray.errors import DataError
from mmrlhf_ray.feedback.annotations import annotations_table, comparisons_of
from mmrlhf_ray.feedback.labels.agreement import agreement, pairwise_agreement
from mmrlhf_ray.feedback.labels.consensus import consensus
from mmrlhf_ray.feedback.labels.files import (
    Written,
    read_export,
    read_foreign,
    write_argilla,
    write_derived,
    write_imported,
    write_label_studio,
)
from mmrlhf_ray.feedback.labels.quality import annotator_quality
from mmrlhf_ray.feedback.labels.report import agreement_table, pairs_table, quality_table
from mmrlhf_ray.schema import MEDIA, PREFERENCE, PROMPT
from tests.unit.feedback.people import A, B, answered, crowd, pair, prompts


@pytest.fixture
def export(tmp_path):
    made = [
        pair("left", who="a"),
        pair("left", who="b"),
        answered("correct", {"text": "x"}, responses=(A,), prompt_id="q"),
    ]
    for name, table in {
        "x": annotations_table(made),
        "prompts": prompts("p", "q"),
        "media": pa.Table.from_pylist([], schema=MEDIA),
    }.items():
        pq.write_table(table, tmp_path / f"{name}.parquet")
    return read_export(tmp_path / "x.parquet")


def test_records_are_read_by_data_path(export, tmp_path):
    assert export.tasks == {"p": "digits", "q": "digits"}
    assert write_derived(export, "preference", tmp_path / "pairs") == 2
    read = read_records(DataConfig(path=str(tmp_path / "pairs")), PREFERENCE, tmp_path).records.to_pylist()
    assert [(row["chosen"], row["rejected"]) for row in read] == [(A, B), ("x", A)]
    assert write_derived(export, "demonstration", tmp_path / "answers") == 1
    with pytest.raises(DataError, match="no ranking comes of the 0"):
        write_derived(type(export)([], export.prompts, export.media), "ranking", tmp_path / "none")


@pytest.mark.parametrize(("write", "tool"), [(write_argilla, "argilla"), (write_label_studio, "label_studio")])
def test_other_tools_and_back(export, tmp_path, write, tool):
    assert write(export, tmp_path / "theirs") == Written(2, 0)
    with pytest.raises(DataError, match="is there already"):
        write(export, tmp_path / "theirs")
    (file,) = [f for f in (tmp_path / "theirs").rglob("*.json") if "pair" in str(f) and "settings" not in f.name]
    imported = read_foreign(file, tool)
    assert imported.annotations == export.annotations[:2]
    assert write_imported(imported, tmp_path / "ours") == 2
    lines = [json.loads(line) for line in (tmp_path / "ours" / "annotations.jsonl").read_text().splitlines()]
    assert [line["choice"] for line in lines] == ["left", "left"]
    asked = read_records(DataConfig(path=str(tmp_path / "ours" / "prompts.jsonl")), PROMPT, tmp_path).records
    assert asked["prompt_id"].to_pylist() == ["p"]


def test_files_that_are_none_are_named(tmp_path):
    with pytest.raises(DataError, match="x.parquet: expected a Parquet file"):
        read_export(tmp_path / "x.parquet")
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(DataError, match="expected a list of objects"):
        read_foreign(tmp_path / "a.json", "argilla")
    (tmp_path / "a.jsonl").write_text("{\n")
    with pytest.raises(DataError, match="is not JSON"):
        read_foreign(tmp_path / "a.jsonl", "argilla")


def test_tables_name_everybody_with_counts():
    votes = crowd({"careful": 0.95, "coin": 0.5, "fair": 0.8}, 60, seed=0)
    found = consensus(list(comparisons_of(votes)), "dawid_skene")
    text = io.StringIO()
    console = Console(file=text, width=200)
    tasks = {vote.prompt_id: "t" for vote in votes} | {"q": "t"}
    console.print(agreement_table(agreement([*votes, pair("left", prompt_id="q")], tasks)))
    console.print(pairs_table(*pairwise_agreement(votes)))
    console.print(quality_table(annotator_quality(votes, {}), dict(found.reliability)))
    shown = text.getvalue()
    for expected in ("careful, coin", "all", "180", f"{found.reliability['careful'].reliability:.2f}"):
        assert expected in shown
    assert "nobody answered" in str([a.undefined for a in agreement([pair("left")], {"p": "t"})])


def test_commands(export, tmp_path):
    def run(*arguments):
        done = CliRunner().invoke(app, [str(a) for a in arguments])
        assert done.exit_code == 0, done.exception or done.output
        return done.output

    file = tmp_path / "x.parquet"
    assert "Krippendorff" in run("agreement", file)
    assert "2 records" in run("derive", file, tmp_path / "pairs")
    assert "2 items" in run("to", "label_studio", file, tmp_path / "theirs")
    shown = run("import", "label_studio", tmp_path / "theirs" / "pair_2.json", tmp_path / "ours")
    assert "2 annotations of 1 prompts; 0 answers left out" in shown
    wrong = CliRunner().invoke(app, ["derive", str(file), str(tmp_path / "no"), "--kind", "pair"])
    assert "expected one of preference" in str(wrong.exception)
