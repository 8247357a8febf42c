"""Every kind of storage gives the same rows, whole or by fragments, in whatever order these are read."""

import gzip
import io
import json
import tarfile

import datasets
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmrlhf_ray.config import SourceConfig
from mmrlhf_ray.data.rowfiles import open_rows
from mmrlhf_ray.data.rowfiles.base import FRAGMENT_ROWS
from mmrlhf_ray.data.rowfiles.patterns import expand_braces
from mmrlhf_ray.errors import DataError

COUNT = 2 * FRAGMENT_ROWS + 100
ROWS = [{"prompt": f'Row {i}: a "quoted", [odd] {{text}} \\ é', "number": i} for i in range(COUNT)]


def lines():
    return b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)


def parquet(rows=ROWS, **options):
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink, **options)
    return sink.getvalue()


def arrow(writer, rows=ROWS):
    sink, table = io.BytesIO(), pa.Table.from_pylist(rows)
    with writer(sink, table.schema) as out:
        out.write_table(table, max_chunksize=100)
    return sink.getvalue()


def tar(samples):
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        for name, content in samples:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return sink.getvalue()


CONTENTS = {
    "rows.jsonl": lines(),
    "rows.jsonl.gz": gzip.compress(lines()),
    "rows.jsonl.zst": pa.compress(lines(), codec="zstd", asbytes=True),
    "rows.ndjson": lines(),
    "rows.ndjson.gz": gzip.compress(lines()),
    "rows.json": json.dumps(ROWS, indent=1).encode(),
    "lines.json": lines(),
    "rows.parquet": parquet(row_group_size=300),
    "small.parquet": parquet(row_group_size=7),
    "rows.arrow": arrow(pa.ipc.new_file),
    "stream.arrow": arrow(pa.ipc.new_stream),
    "rows.feather": arrow(pa.ipc.new_file),
    "rows.tar": tar([(f"dir.v1/s{i}.json", json.dumps(row).encode()) for i, row in enumerate(ROWS)]),
}


def parsed(row):
    return json.loads(row) if isinstance(row, bytes) else row


def all_rows(path, **source):
    rows = open_rows(SourceConfig(path=str(path), **source))
    found = [(f.file, number, parsed(row)) for f in rows.fragments() for number, row in rows.read(f)]
    return rows, found


@pytest.mark.parametrize("name", CONTENTS)
@pytest.mark.parametrize("where", ["local", "file", "memory"])
def test_rows_by_fragments(tmp_path, name, where):
    (tmp_path / name).write_bytes(CONTENTS[name])
    path = {"local": str(tmp_path / name), "file": f"file://{tmp_path}/{name}", "memory": f"memory://d/{name}"}[where]
    if where == "memory":
        fsspec.filesystem("memory").pipe(f"/d/{name}", CONTENTS[name])
    rows, found = all_rows(path)
    assert [row for _, _, row in found] == ROWS
    assert [number for _, number, _ in found] == list(range(COUNT))
    assert {file for file, _, _ in found} == {path}
    fragments = rows.fragments()
    assert len(fragments) > 1
    assert sum(f.rows for f in fragments) == COUNT
    for fragment in reversed(fragments):  # each by itself, in a reader that has read nothing else
        own = [(n, parsed(row)) for n, row in open_rows(SourceConfig(path=path)).read(fragment)]
        assert own == [(n, ROWS[n]) for n in range(fragment.first, fragment.first + fragment.rows)]


def coco(caption):
    return json.dumps({"images": [{"id": 1}], "annotations": [{"image_id": 1, "caption": caption}]}).encode()


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("a.parquet", parquet(row_group_size=7), parquet(row_group_size=300, rows=ROWS[:2])),
        ("a.arrow", arrow(pa.ipc.new_file), arrow(pa.ipc.new_stream, ROWS[:2])),
        ("a.json", coco("one"), coco("two")),
    ],
)
def test_a_file_that_is_written_anew_is_read_anew(tmp_path, name, before, after):
    (tmp_path / name).write_bytes(before)
    assert all_rows(tmp_path / name)[1]
    (tmp_path / f"b-{name}").write_bytes(after)
    wanted = [row for _, _, row in all_rows(tmp_path / f"b-{name}")[1]]
    (tmp_path / f"b-{name}").replace(tmp_path / name)
    assert [row for _, _, row in all_rows(tmp_path / name)[1]] == wanted


def test_blank_lines_count_as_lines_but_are_no_rows(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\n  \n{"a": 2}\n\n{"a": 3}')
    rows, found = all_rows(tmp_path / "rows.jsonl")
    assert [(number, row["a"]) for _, number, row in found] == [(0, 1), (3, 2), (5, 3)]
    assert sum(f.rows for f in rows.fragments()) == 3


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.parquet"])
def test_rows_with_large_media_make_small_fragments(tmp_path, name):
    rows = [{"image": "x" * (3 << 20)} for _ in range(7)]
    content = {
        "rows.jsonl": b"\n".join(json.dumps(row).encode() for row in rows),
        "rows.json": json.dumps(rows).encode(),
        "rows.parquet": parquet(rows, compression="none", use_dictionary=False),
    }
    (tmp_path / name).write_bytes(content[name])
    reader, found = all_rows(tmp_path / name)
    assert max(f.rows for f in reader.fragments()) <= 3
    assert len(found) == 7


@pytest.mark.parametrize("text", [b"[]", b" [ ] ", b"[\n]"])
def test_an_empty_list_has_no_rows(tmp_path, text):
    (tmp_path / "rows.json").write_bytes(text)
    assert all_rows(tmp_path / "rows.json")[1] == []


def test_shards_by_pattern_and_directory(tmp_path):
    for number in range(3):
        (tmp_path / f"shard-{number:03d}.jsonl").write_text(f'{{"n": {number}}}\n{{"n": {number + 10}}}\n')
    for path in ("", "shard-{000..002}.jsonl", "shard-*.jsonl", "{shard-000,shard-001,shard-002}.jsonl"):
        for root in (str(tmp_path), f"file://{tmp_path}"):
            found = all_rows(f"{root}/{path}")[1]
            assert [row["n"] for _, _, row in found] == [0, 10, 1, 11, 2, 12]
            assert [(file.rpartition("/")[2], n) for file, n, _ in found[-2:]] == [
                ("shard-002.jsonl", 0),
                ("shard-002.jsonl", 1),
            ]
    assert expand_braces("a{1..3}b{x,y}") == ["a1bx", "a1by", "a2bx", "a2by", "a3bx", "a3by"]


@pytest.mark.parametrize(
    "name", ["a*b.jsonl", "a?b.jsonl", "a[1].jsonl", "a{1}.jsonl", "{1..2}.jsonl", "a::b.jsonl", "x{y}/d.jsonl"]
)
def test_an_existing_path_is_that_path(tmp_path, name):
    for other in ("axb.jsonl", "a1.jsonl", "1.jsonl", "2.jsonl", "xy/d.jsonl"):
        (tmp_path / other).parent.mkdir(exist_ok=True)
        (tmp_path / other).write_text('{"n": 0}\n')
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text('{"n": 1}\n')
    assert [(file, row["n"]) for file, _, row in all_rows(tmp_path / name)[1]] == [(str(tmp_path / name), 1)]


@pytest.mark.parametrize("directory", ["x?", "x*", "x{y}", "x[1]"])
@pytest.mark.parametrize("pattern", ["", "*.jsonl", "d{0..1}.jsonl"])
def test_an_existing_directory_is_that_directory(tmp_path, directory, pattern):
    for other in ("xa", "xy", "x1"):
        (tmp_path / other).mkdir()
        (tmp_path / other / "d1.jsonl").write_text('{"n": 0}\n')
    (tmp_path / directory).mkdir()
    for number in (0, 1):
        (tmp_path / directory / f"d{number}.jsonl").write_text('{"n": 1}\n')
    assert [row["n"] for _, _, row in all_rows(tmp_path / directory / pattern)[1]] == [1, 1]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet", "rows.csv", "rows.tar"])
def test_a_pointer_of_git_lfs_is_named(tmp_path, name):
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n")
    with pytest.raises(DataError, match="is a Git LFS pointer in place of the file; fetch it with git lfs pull"):
        all_rows(tmp_path / name)


def test_media_parquet_holds_no_rows(tmp_path):
    (tmp_path / "part.parquet").write_bytes(parquet())
    (tmp_path / "media.parquet").write_bytes(parquet())
    assert len(all_rows(tmp_path)[1]) == COUNT


# Hugging Face data sets


@pytest.fixture
def pictures(tmp_path, png):
    features = datasets.Features(
        {"prompt": datasets.Value("string"), "images": [datasets.Image()], "sound": datasets.Audio()}
    )
    rows = [
        {"prompt": f"p{i}", "images": [{"bytes": png((i % 256, 0, 0)), "path": None}], "sound": None}
        for i in range(FRAGMENT_ROWS + 5)
    ]
    return datasets.Dataset.from_list(rows, features=features), rows


def test_saved_data_set_gives_media_undecoded(tmp_path, pictures):
    saved, rows = pictures
    saved.save_to_disk(str(tmp_path / "saved"))
    found = [row for _, _, row in all_rows(tmp_path / "saved")[1]]
    assert found == rows


def test_splits_are_named(tmp_path, pictures):
    saved, rows = pictures
    halves = datasets.DatasetDict({"train": saved.select(range(200)), "test": saved.select(range(200, len(rows)))})
    halves.save_to_disk(str(tmp_path / "saved"))
    assert len(all_rows(tmp_path / "saved", split="train")[1]) == 200
    found = [row["prompt"] for _, _, row in all_rows(tmp_path / "saved", split="test")[1]]
    assert found == [row["prompt"] for row in rows[200:]]
    for split in (None, "dev"):
        with pytest.raises(DataError, match=rf"has the splits \['test', 'train'\], got split={split}"):
            all_rows(tmp_path / "saved", split=split)


def test_selected_and_shuffled_rows_are_read_in_their_order(tmp_path, pictures):
    saved, rows = pictures
    order = np.random.default_rng(0).permutation(len(rows))
    saved.select(order).save_to_disk(str(tmp_path / "saved"))
    assert [row for _, _, row in all_rows(tmp_path / "saved")[1]] == [rows[i] for i in order]


def test_load_dataset_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "set").mkdir()
    (tmp_path / "set/train.jsonl").write_bytes(lines())
    found = all_rows(f"hf:{tmp_path}/set")[1]
    assert [row for _, _, row in found] == ROWS
    with pytest.raises(DataError, match=r"has the splits \['train'\], got split=test"):
        all_rows(f"hf:{tmp_path}/set", split="test")
    with pytest.raises(DataError, match="hf:.*nothing cannot be loaded as a data set"):
        all_rows(f"hf:{tmp_path}/nothing")


# WebDataset


def test_members_of_a_key_are_a_row(tmp_path, png):
    red, blue = png((255, 0, 0)), png((0, 0, 255))
    members = [
        ("a/1.png", red),
        ("a/1.json", b'{"prompt": "Which?", "task": "t"}'),
        ("a/1.wav", b"sound"),
        ("a/2.b.jpg", red),
        ("a/2.a.png", blue),
        ("a/2.txt", b"A caption."),
        ("b/2.json", b'{"prompt": "<image>", "images": ["2.blue.png"]}'),
        ("b/2.blue.png", blue),
        ("README", b"no key"),
        ("b/3.json", b"{broken"),
    ]
    (tmp_path / "rows.tar").write_bytes(tar(members))
    reader = open_rows(SourceConfig(path=str(tmp_path / "rows.tar")))
    (fragment,) = reader.fragments()
    assert fragment.rows == 4
    rows = dict(reader.read(fragment))
    assert rows[0] == {
        "prompt": "Which?",
        "task": "t",
        "images": [{"bytes": red, "path": "a/1.png"}],
        "audios": [{"bytes": b"sound", "path": "a/1.wav"}],
    }
    assert rows[1] == {
        "txt": "A caption.",
        "images": [{"bytes": blue, "path": "a/2.a.png"}, {"bytes": red, "path": "a/2.b.jpg"}],
    }
    assert rows[2] == {"prompt": "<image>", "images": [{"bytes": blue, "path": "b/2.blue.png"}]}
    assert rows[3] == b"{broken"


@pytest.mark.parametrize(
    ("row", "key"),
    [
        ({"id": 3, "image": "1.jpg", "conversations": []}, "image"),
        ({"image": "coco/train2017/1.jpg", "conversations": []}, "image"),
        ({"image": ["1.jpg"]}, "image"),
        ({"images": ["1.jpg"]}, "images"),
        ({"prompt": "a", "image_path": "1.jpg"}, "images"),
    ],
)
def test_names_in_a_row_stand_for_members(tmp_path, row, key):
    (tmp_path / "rows.tar").write_bytes(tar([("s/1.jpg", b"jpeg"), ("s/1.json", json.dumps(row).encode())]))
    ((_, _, found),) = all_rows(tmp_path / "rows.tar")[1]
    member = {"bytes": b"jpeg", "path": "s/1.jpg"}
    assert found.pop(key) == (member if isinstance(row.get(key), str) else [member])
    assert found == {k: v for k, v in row.items() if k != key}


def test_members_may_be_named_by_content_parts(tmp_path):
    row = {"messages": [{"role": "user", "content": [{"type": "image", "image": "1.jpg"}]}]}
    (tmp_path / "rows.tar").write_bytes(tar([("1.jpg", b"jpeg"), ("1.json", json.dumps(row).encode())]))
    ((_, _, found),) = all_rows(tmp_path / "rows.tar")[1]
    part = {"type": "image", "image": {"bytes": b"jpeg", "path": "1.jpg"}}
    assert found == {"messages": [{"role": "user", "content": [part]}]}


@pytest.mark.parametrize(
    ("suffix", "key"),
    [
        ("opus", "audios"),
        ("oga", "audios"),
        ("mov", "videos"),
        ("m4v", "videos"),
        ("tif", "images"),
        ("AVIF", "images"),
    ],
)
def test_media_members_of_every_ending(tmp_path, suffix, key):
    members = [
        ("1.json", b'{"prompt": "a"}'),
        (f"1.{suffix}", b"\xff\x00"),
        ("1.note", b"text"),
        ("1.npy", b"\xff\x00"),
    ]
    (tmp_path / "rows.tar").write_bytes(tar(members))
    ((_, _, found),) = all_rows(tmp_path / "rows.tar")[1]
    media = [{"bytes": b"\xff\x00", "path": f"1.{suffix}"}]
    assert found == {"prompt": "a", key: media, "note": "text", "npy": b"\xff\x00"}


# What cannot be read


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("rows.json", b'[{"a": 1}, {"a"', "is cut off"),
        (
            "rows.json",
            b'[{"a": 1}]\n[{"a": 2}, {"a": 3}]',
            r"goes on with '\[{\"a\": 2}, {\"a\": 3}\]' after its list ends",
        ),
        ("rows.json", b'[{"a": 1}]\n{"a": 2}\n', "goes on with '{\"a\": 2}' after its list ends"),
        ("rows.json", b'[{"a": "]"}]]', "goes on with ']' after"),
        ("rows.tar", b"no tar" * 200, "is not a readable tar file"),
        ("rows.tar", CONTENTS["rows.tar"][:5_000], "is not a readable tar file: unexpected end"),
        ("rows.arrow", b"no arrow", "is not a readable Arrow file"),
        ("rows.jsonl.gz", b"no gzip", "cannot be read"),
        ("rows.parquet", CONTENTS["rows.parquet"][:-20], "is not a readable Parquet file"),
    ],
)
def test_damaged_files(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"{name}.* {reason}"):
        all_rows(tmp_path / name)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("rows-{0..3}.jsonl", "rows-0.jsonl does not exist"),
        ("*.jsonl", "no file matches"),
        ("{9..3}.jsonl", "counts down"),
        ("nosuch://host/rows.jsonl", "give a local path or a URL"),
        ("other", r"other holds no file of rows, but a\.txt; rows are files that end in \.jsonl, "),
        ("mixed", r"holds \['.jsonl', '.parquet'\]"),
    ],
)
def test_paths_that_lead_nowhere(tmp_path, path, reason):
    (tmp_path / "mixed").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/a.txt").touch()
    (tmp_path / "mixed/a.jsonl").write_bytes(lines())
    (tmp_path / "mixed/b.parquet").write_bytes(parquet())
    with pytest.raises(DataError, match=reason):
        all_rows(path if "://" in path else tmp_path / path)
