"""CSV and TSV as row files."""

import csv
import gzip
import io

import pyarrow as pa
import pytest

from mmrlhf_ray.config import SourceConfig
from mmrlhf_ray.data.rowfiles import open_rows
from mmrlhf_ray.data.rowfiles.base import FRAGMENT_ROWS, Unreadable
from mmrlhf_ray.errors import DataError

COUNT = 2 * FRAGMENT_ROWS + 100
ROWS = [{"prompt": f'Row {i}, "quoted";\nand\tmore é', "response": "a" if i % 3 else None} for i in range(COUNT)]


def table(rows, **dialect):
    sink = io.StringIO()
    writer = csv.DictWriter(sink, ["prompt", "response"], **dialect)
    writer.writeheader()
    writer.writerows(rows)
    return sink.getvalue().encode()


CONTENTS = {
    "rows.csv": table(ROWS),
    "unix.csv": table(ROWS, lineterminator="\n"),
    "semicolons.csv": table(ROWS, delimiter=";"),
    "marked.csv": b"\xef\xbb\xbf" + table(ROWS),
    "rows.tsv": table(ROWS, delimiter="\t"),
    "rows.csv.gz": gzip.compress(table(ROWS)),
    "rows.csv.zst": pa.compress(table(ROWS), codec="zstd", asbytes=True),
    "rows.tsv.gz": gzip.compress(table(ROWS, delimiter="\t")),
}


def read(path):
    rows = open_rows(SourceConfig(path=str(path)))
    return [(number, row) for fragment in rows.fragments() for number, row in rows.read(fragment)]


@pytest.mark.parametrize("name", CONTENTS)
def test_rows_by_fragments(tmp_path, name):
    (tmp_path / name).write_bytes(CONTENTS[name])
    assert read(tmp_path / name) == list(enumerate(ROWS))
    rows = open_rows(SourceConfig(path=str(tmp_path / name)))
    fragments = rows.fragments()
    assert len(fragments) == 3
    for fragment in reversed(fragments):  # each by itself, in a reader that has read nothing else
        own = list(open_rows(SourceConfig(path=str(tmp_path / name))).read(fragment))
        assert own == [(n, ROWS[n]) for n in range(fragment.first, fragment.first + fragment.rows)]


def written(tmp_path, content, name="rows.csv"):
    (tmp_path / name).write_bytes(content)
    return read(tmp_path / name)


def test_blank_lines_are_no_rows_and_empty_cells_no_values(tmp_path):
    assert written(tmp_path, b"a,b\n\n1,\n\n,2") == [(0, {"a": "1", "b": None}), (1, {"a": None, "b": "2"})]


def test_an_index_without_a_name(tmp_path):
    assert written(tmp_path, b",a\n0,x\n") == [(0, {"unnamed_0": "0", "a": "x"})]


def test_long_fields_are_read(tmp_path):
    long = "x" * 300_000
    assert written(tmp_path, b"a\n" + long.encode()) == [(0, {"a": long})]


@pytest.mark.parametrize("content", [b"", b"\n\n", b"a,b\n", b"a,b"])
def test_a_table_without_rows(tmp_path, content):
    assert written(tmp_path, content) == []


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"1", "the row has 1 fields, the first row names 2"),
        (b"1,2,3", "the row has 3 fields, the first row names 2"),
        (b'"1"2,3', "the row is not CSV"),
        (b"\xe4,2", "the row is not UTF-8"),
    ],
)
def test_a_bad_row_costs_itself(tmp_path, line, reason):
    found = written(tmp_path, b"a,b\n1,2\n" + line + b"\n3,4\n")
    assert [number for number, _ in found] == [0, 1, 2]
    assert (found[0][1], found[2][1]) == ({"a": "1", "b": "2"}, {"a": "3", "b": "4"})
    assert isinstance(found[1][1], Unreadable)
    assert reason in found[1][1].reason


def test_a_quote_that_never_ends_is_said(tmp_path):
    ((_, good), (_, bad)) = written(tmp_path, b'a,b\n1,2\n"3,4\n5,6\n')
    assert good == {"a": "1", "b": "2"}
    assert "unexpected end of data" in bad.reason


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"a,b,a\n1,2,3\n", "several columns 'a'"),
        ("a,b\n1,2\n".encode("utf-16"), "names of the columns cannot be read: the row is not UTF-8"),
        (b"a,b\r1,2\r", "names of the columns cannot be read: the row is not CSV"),
    ],
)
def test_names_that_cannot_be_used(tmp_path, content, reason):
    with pytest.raises(DataError, match=reason):
        written(tmp_path, content)
