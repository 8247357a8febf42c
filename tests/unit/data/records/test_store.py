"""Records by position: mixtures, tasks, media beside Parquet, augmentation; and the same from wherever one starts."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmrlhf_ray.config import DataConfig
from mmrlhf_ray.data.media import media_row
from mmrlhf_ray.data.records import store as module
from mmrlhf_ray.data.records.quarantine import Rejected
from mmrlhf_ray.data.records.readers import first_records, open_store, read_records, write_records
from mmrlhf_ray.data.records.rows import open_sources
from mmrlhf_ray.data.records.store import FileStore, LoadedRow
from mmrlhf_ray.data.rowfiles.base import FRAGMENT_ROWS
from mmrlhf_ray.errors import DataError
from mmrlhf_ray.schema import MEDIA, PROMPT


def lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def store_of(config, seed=0, **options):
    return FileStore(config, PROMPT, open_sources(config), seed, **options)


def id_of(loaded):
    if isinstance(loaded, Rejected):
        return f"bad {loaded.bad.file.rpartition('/')[2]} {loaded.bad.row}"
    return loaded.record["prompt_id"]


@pytest.fixture
def mixture(tmp_path):
    """Two sources in two formats, one of them in shards, with a bad row and blank lines."""
    many = [{"prompt": f"a{n}", "prompt_id": f"a{n}"} for n in range(FRAGMENT_ROWS + 50)]
    lines(tmp_path / "many.jsonl", [*many[:5], "", *many[5:]])
    lines(
        tmp_path / "few/0.jsonl",
        [{"prompt": [{"role": "user", "content": f"b{n}"}], "prompt_id": f"b{n}"} for n in range(7)],
    )
    lines(
        tmp_path / "few/1.jsonl", ['{"prompt": 3}', {"prompt": [{"role": "user", "content": "b8"}], "prompt_id": "b8"}]
    )
    sources = [
        {"path": str(tmp_path / "many.jsonl"), "weight": 3.0},
        {"path": str(tmp_path / "few"), "weight": 1.0, "task": "few", "format": "trl"},
    ]
    return DataConfig.model_validate({"sources": sources})


def test_a_mixture_by_position(mixture):
    store = store_of(mixture)
    loaded = [store.load(position) for position in range(400)]
    ids = [id_of(row) for row in loaded]
    assert store.rows == FRAGMENT_ROWS + 50 + 9
    assert abs(sum(i.startswith("a") for i in ids) - 300) < 1
    own = [i for i in ids if not i.startswith("a")]
    for start in range(0, 90, 9):  # epochs of the small source
        assert sorted(own[start : start + 9]) == sorted([*(f"b{n}" for n in range(7)), "b8", "bad 1.jsonl 0"])
    tasks = {id_of(row)[0]: row.record["task"] for row in loaded if isinstance(row, LoadedRow)}
    assert tasks == {"a": "default", "b": "few"}


@pytest.mark.parametrize("streaming", [False, True])
def test_whoever_asks_need_not_know_whether_rows_are_held(streaming, mixture, tmp_path):
    config = mixture.model_copy(update={"on_bad_row": "quarantine", "streaming": streaming})
    store = open_store(config, PROMPT, read_records(config, PROMPT, tmp_path / "run"), seed=0)
    bad = 1 if streaming else 0
    assert store.rows == FRAGMENT_ROWS + 50 + 8 + bad
    ids = [id_of(store.load(position)) for position in range(400)]
    assert abs(sum(i.startswith("a") for i in ids) - 300) < 1, "by weight"
    assert sum(i.startswith("a") for i in set(ids)) == sum(i.startswith("a") for i in ids), "an epoch has each row once"
    assert [id_of(row) for row in store.slice(FRAGMENT_ROWS + 48, FRAGMENT_ROWS + 52)] == ["a304", "a305", "b0", "b1"]
    by_file = [id_of(row) for row in store.slice(0, store.rows)]
    drawn = dict(store.sample(3))
    assert len(drawn) == 3
    assert [id_of(row) for row in drawn.values()] == (ids[:3] if streaming else [by_file[n] for n in drawn])
    assert streaming or max(drawn) > FRAGMENT_ROWS // 2, "not the first rows of the files"
    rest = store.without([0, 2])
    assert rest.rows == store.rows - (0 if streaming else 2), "in files nothing can be left out"
    assert streaming or [id_of(row) for row in rest.slice(0, 2)] == ["a1", "a3"]
    assert rest.what == store.what


def test_resuming_at_random_rows_gives_what_an_uninterrupted_run_gives(mixture):
    whole = [id_of(store_of(mixture).load(position)) for position in range(700)]
    for start in np.random.default_rng(0).integers(0, 700, 12):
        resumed = store_of(mixture)
        assert [id_of(resumed.load(position)) for position in range(start, 700)] == whole[start:]
    assert [id_of(store_of(mixture, seed=1).load(position)) for position in range(700)] != whole


def test_only_a_window_is_in_memory(tmp_path, monkeypatch):
    path = lines(tmp_path / "rows.jsonl", [{"prompt": str(n)} for n in range(40 * FRAGMENT_ROWS)])
    store = store_of(DataConfig(path=path))
    reads = []
    raw = store._readers[0].raw
    monkeypatch.setattr(store._readers[0], "raw", lambda fragment: reads.append(fragment) or raw(fragment))
    most = 0
    for position in range(0, store.rows, 16):
        store.load(position)
        most = max(most, len(store._held))
    assert most == module._FRAGMENTS_HELD
    assert len(reads) == len(set(reads)) == 40, "each fragment is read once an epoch"


def test_without_shuffling_rows_come_as_they_lie(mixture):
    store = store_of(mixture, training=False)
    ids = [id_of(store.load(position)) for position in range(store.rows)]
    assert ids[:3] == ["a0", "a1", "a2"]
    assert ids[-3:] == ["b6", "bad 1.jsonl 0", "b8"]


def test_first_records_have_no_media_and_no_bad_rows(mixture):
    found = first_records(mixture, PROMPT, seed=0, count=100)
    assert found.records.num_rows + found.bad_rows == 100
    assert found.media.num_rows == 0


def test_a_mixture_that_is_read_at_once_names_file_and_row(mixture, tmp_path):
    with pytest.raises(DataError, match=r"many.jsonl, .*few: 1 of 315 rows.*\n.*few/1.jsonl, line 1: prompt is"):
        read_records(mixture, PROMPT, tmp_path / "run")
    found = read_records(mixture.model_copy(update={"on_bad_row": "quarantine"}), PROMPT, tmp_path / "run")
    assert found.records.num_rows == 314
    assert found.sources.count(0) == FRAGMENT_ROWS + 50
    assert (found.files[-1].rpartition("/")[2], found.rows[-1]) == ("1.jsonl", 1)
    assert (found.rows[4], found.rows[5]) == (4, 6), "the blank line counts"
    assert "1.jsonl, line 2 (b8): because; mend it" in str(found.bad_row(313, "b8", "because", "mend it"))
    kept = found.kept([False] * 313 + [True])
    assert (kept.files, kept.rows, kept.sources) == (found.files[-1:], (1,), (1,))
    (aside,) = [json.loads(line) for line in (tmp_path / "run/quarantine.jsonl").read_text().splitlines()]
    assert (aside["file"].rpartition("/")[2], aside["row"]) == ("1.jsonl", 0)


def test_one_prompt_id_across_the_files_of_a_mixture(tmp_path):
    paths = [lines(tmp_path / f"{n}.jsonl", [{"prompt": str(n), "prompt_id": "p"}]) for n in range(2)]
    config = DataConfig.model_validate({"sources": [{"path": path} for path in paths]})
    with pytest.raises(
        DataError, match=r"1.jsonl, line 1 \(p\): its prompt_id names another prompt in line 1 of .*0.jsonl"
    ):
        read_records(config, PROMPT, tmp_path / "run")


# Media


def test_media_beside_parquet_are_looked_up(tmp_path, png):
    media = [media_row("image", png((n, 0, 0))) for n in range(200)]
    records = [
        {
            "messages": json.dumps([{"role": "user", "content": [{"type": "image"}] * 2}]),
            "media_ids": [m["media_id"], media[0]["media_id"]],
        }
        for m in media
    ]
    (tmp_path / "d").mkdir()
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "d/records.parquet")
    pq.write_table(pa.Table.from_pylist(media, schema=MEDIA), tmp_path / "d/media.parquet", row_group_size=16)
    for path in (str(tmp_path / "d"), f"file://{tmp_path}/d"):
        store = store_of(DataConfig(path=path))
        for position in range(200):
            loaded = store.load(position)
            assert [m["media_id"] for m in loaded.media] == loaded.record["media_ids"]
            assert all(row in media for row in loaded.media)
    whole = read_records(DataConfig(path=str(tmp_path / "d")), PROMPT, tmp_path / "run")
    assert whole.media.to_pylist() == media


def test_media_in_the_rows_themselves(tmp_path, png):
    rows = [{"prompt": "<image>", "images": [{"bytes": png((n, 0, 0)), "path": f"{n}.png"}]} for n in range(3)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    store = store_of(DataConfig(path=str(tmp_path / "rows.parquet")), training=False)
    assert [store.load(n).media[0]["data"] for n in range(3)] == [row["images"][0]["bytes"] for row in rows]


def test_a_local_image_folder_of_the_hub_library(tmp_path, png, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.png").write_bytes(png())
    (tmp_path / "set" / "metadata.jsonl").write_text('{"file_name": "a.png", "prompt": "What is this?"}\n')
    found = store_of(DataConfig(path=f"hf:{tmp_path}/set")).load(0)
    assert found.media[0]["data"] == png()


def test_paths_need_a_directory(tmp_path, png):
    import fsspec

    content = json.dumps({"prompt": "<image>", "images": ["a.png"]}).encode()
    fsspec.filesystem("memory").pipe("/store/rows.jsonl", content)
    (tmp_path / "a.png").write_bytes(png())
    config = DataConfig(path="memory://store/rows.jsonl")
    found = store_of(config).load(0)
    assert isinstance(found, Rejected)
    assert "set data.media_root" in str(found.bad)
    found = store_of(config.model_copy(update={"media_root": str(tmp_path)})).load(0)
    assert found.media[0]["data"] == png()


def test_augmentation_is_seeded_by_position_and_only_for_training(tmp_path, png):
    (tmp_path / "a.png").write_bytes(png())
    rows = [{"prompt": "<image>", "images": ["a.png"], "task": "t"}] * 4
    augment = {"tasks": ["t"], "image": {"crop": 0.5, "colour": 0.5}}
    config = DataConfig.model_validate(
        {"path": lines(tmp_path / "rows.jsonl", rows), "augment": augment, "streaming": True}
    )
    first, again = ([store_of(config).load(n).media[0] for n in range(8)] for _ in range(2))
    assert first == again
    assert len({row["media_id"] for row in first}) > 4, "other media each epoch"
    for position in range(8):
        loaded = store_of(config).load(position)
        assert loaded.record["media_ids"] == [loaded.media[0]["media_id"]]
    plain = store_of(config, training=False)
    assert {plain.load(n).media[0]["data"] for n in range(4)} == {png()}


# Files


def test_a_file_that_shrinks_is_an_error(tmp_path):
    path = lines(tmp_path / "rows.jsonl", [{"prompt": str(n)} for n in range(20)])
    store = store_of(DataConfig(path=path))
    lines(tmp_path / "rows.jsonl", [{"prompt": "0"}] * 3)
    with pytest.raises(DataError, match="was changed while it was read"):
        store.load(0)


def test_what_is_written_can_be_streamed(tmp_path, png):
    (tmp_path / "a.png").write_bytes(png())
    path = lines(tmp_path / "rows.jsonl", [{"prompt": "<image>?", "images": ["a.png"]}, {"prompt": "text"}])
    found = read_records(DataConfig(path=path), PROMPT, tmp_path / "run")
    write_records(tmp_path / "out", found.records, found.media)
    store = store_of(DataConfig(path=str(tmp_path / "out")), training=False)
    assert [store.load(n).record for n in range(2)] == found.records.to_pylist()


def test_records_made_from_others_keep_their_places(mixture, tmp_path):
    found = read_records(mixture.model_copy(update={"on_bad_row": "quarantine"}), PROMPT, tmp_path / "run")
    again = found.derived(found.records.take([313, 0, 313]), [313, 0, 313])
    assert [again.bad_row(n, "", "", "").file.rpartition("/")[2] for n in range(3)] == [
        "1.jsonl",
        "many.jsonl",
        "1.jsonl",
    ]
    assert (again.rows, again.sources) == ((1, 0, 1), (1, 0, 1))
