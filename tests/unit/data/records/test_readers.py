"""Files of records to tables, and what happens to bad ones."""

import json
import logging
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmrlhf_ray.config.data import DataConfig
from mmrlhf_ray.data.errors import BadRow
from mmrlhf_ray.data.media import MediaLimits, media_row
from mmrlhf_ray.data.records.quarantine import Rejected, settle
from mmrlhf_ray.data.records.readers import read_records, write_records
from mmrlhf_ray.errors import DataError
from mmrlhf_ray.schema import DEMONSTRATION, MEDIA, PREFERENCE, PROMPT, RANKING


@pytest.fixture
def folder(tmp_path, png, wav, clip, tone):
    """A data directory with one file of each kind."""
    folder = tmp_path / "data"
    (folder / "pics").mkdir(parents=True)
    (folder / "pics/red.png").write_bytes(png((255, 0, 0)))
    (folder / "pics/blue.png").write_bytes(png((0, 0, 255)))
    (folder / "tone.wav").write_bytes(wav(tone(440, 8_000), 8_000))
    (folder / "clip.webm").write_bytes(clip(np.zeros((3, 16, 16, 3), np.uint8)))
    return folder


@pytest.fixture
def read(folder, tmp_path):
    """Write rows to a .jsonl file and read it."""

    def run(*rows, schema=PROMPT, on_bad_row="fail", **config):
        lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
        (folder / "rows.jsonl").write_bytes(b"\n".join(lines))
        config = DataConfig(path=str(folder / "rows.jsonl"), on_bad_row=on_bad_row, **config)
        return read_records(config, schema, tmp_path / "run")

    return run


def image_row(path="pics/red.png", **columns):
    content = [{"type": "image", "image": path}, {"type": "text", "text": "Which colour?"}]
    return {"messages": [{"role": "user", "content": content}], **columns}


def quarantined(tmp_path):
    return [json.loads(line) for line in (tmp_path / "run/quarantine.jsonl").read_text().splitlines()]


# Good files


def test_jsonl_with_media_of_every_kind(read, folder):
    found = read(
        image_row(prompt_id="p0", task="colour", gold="red"),
        {"prompt": "<audio> with <image>?", "audios": ["tone.wav"], "images": ["pics/../pics/red.png"]},
        {"prompt": "What moves?", "videos": ["clip.webm"]},
        {"prompt": "Hello"},
    )
    assert found.records.schema.equals(PROMPT, check_metadata=True)
    assert found.media.schema.equals(MEDIA, check_metadata=True)
    assert found.records.column("modality").to_pylist() == ["image", "image+audio", "video", "text"]
    assert found.bad_rows == 0
    assert found.rows == (0, 1, 2, 3)
    rows = found.records.to_pylist()
    assert rows[0]["prompt_id"] == "p0"
    assert json.loads(rows[0]["extras"]) == {"gold": "red"}
    assert json.loads(rows[0]["messages"])[0]["content"][0] == {"type": "image"}
    stored = {row["media_id"]: row for row in found.media.to_pylist()}
    assert len(stored) == 3  # the red picture once
    assert [stored[i]["kind"] for i in rows[1]["media_ids"]] == ["audio", "image"]
    assert stored[rows[0]["media_ids"][0]] == media_row("image", (folder / "pics/red.png").read_bytes())


def test_messages_may_take_their_files_from_lists(read):
    content = [{"type": "image"}, {"type": "text", "text": "or"}, {"type": "image"}]
    by_list = read({"messages": [{"role": "user", "content": content}], "images": ["pics/red.png", "pics/blue.png"]})
    by_path = read({"prompt": "<image>or<image>", "images": ["pics/red.png", "pics/blue.png"]})
    assert by_list.records.equals(by_path.records)


def test_blank_lines_byte_order_mark_and_crlf(read):
    found = read(b'\xef\xbb\xbf{"prompt": "a"}\r', b"", b'{"prompt": "\xc3\xa9", "task": null}\r', b"")
    assert found.rows == (0, 2)
    assert "é" in found.records.column("messages")[1].as_py()


@pytest.mark.parametrize(
    ("schema", "answers"),
    [
        (PROMPT, {}),
        (DEMONSTRATION, {"response": "Red.", "feedback": -0.5}),
        (PREFERENCE, {"chosen": "Red.", "rejected": "Blue.", "margin": 0.5}),
        (RANKING, {"responses": ["Red.", "Blue.", ""], "ranks": [1, 2, 2]}),
        (RANKING, {"responses": ["Red.", "Blü."], "aspects": {"wärme": [0.5, None], "tone": [3, 1]}}),
    ],
)
def test_written_records_are_read_back(read, tmp_path, schema, answers):
    found = read(
        image_row(**answers),
        {"prompt": "What?", "audios": ["tone.wav"], "videos": ["clip.webm"], "level": 3, **answers},
        schema=schema,
    )
    target = tmp_path / "store/written"
    for _ in range(2):  # the second time over the first
        write_records(target, found.records, found.media)
        assert sorted(p.name for p in target.iterdir()) == ["media.parquet", "records.parquet"]
        assert [p.name for p in target.parent.iterdir()] == ["written"]
        for path in (target, target / "records.parquet"):
            again = read_records(DataConfig(path=str(path)), schema, tmp_path / "run")
            assert again.records.equals(found.records, check_metadata=True)
            assert again.media.equals(found.media, check_metadata=True)


def test_foreign_parquet_of_text_needs_no_more_than_messages(tmp_path):
    messages = json.dumps([{"role": "user", "content": "Hello"}])
    table = pa.table({"messages": pa.array([messages, messages], pa.large_string()), "level": [1, None]})
    pq.write_table(table, tmp_path / "rows.parquet")
    found = read_records(DataConfig(path=str(tmp_path / "rows.parquet")), PROMPT, tmp_path / "run")
    assert found.records.column("extras").to_pylist() == ['{"level": 1}', "{}"]


# Bad rows


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b'{"prompt": ', "the line is not JSON"),
        (b'{"prompt": "\xff"}', "the line is not UTF-8"),
        (["a"], "the line is a JSON list, expected an object"),
        ({"prompt": "<image>"}, r"1 image placeholder\(s\) for 0 file\(s\) in images"),
        ({"prompt": "<image><image>", "images": ["pics/red.png"]}, r"2 image placeholder\(s\) for 1 file"),
        ({"prompt": "<image>", "images": ["pics/red.png"], "audios": ["tone.wav"]}, r"0 audio placeholder\(s\) for 1"),
        (image_row() | {"images": ["pics/red.png"]}, r"0 image placeholder\(s\) for 1 file"),
        ({"prompt": "a", "media_ids": ["m"]}, "media_ids needs a media.parquet"),
        (image_row("pics/green.png"), "'pics/green.png' cannot be opened: No such file or directory"),
        (image_row("pics"), "pics is not a regular file"),
        (image_row(""), r"messages\[0\]\.content\[0\]\.image is empty, expected media; name a file"),
        ({"prompt": "<image>", "images": [""]}, r"images\[0\] is empty, expected media"),
        ({"prompt": "<image>", "images": [None]}, r"images\[0\] is null, expected media"),
        (image_row("tone.wav"), "tone.wav: expected image .* got audio/wav"),
        (image_row("a\0b"), "cannot be opened: .*embedded null"),
        (image_row("a" * 5_000), "cannot be opened: File name too long"),
        (image_row("https://example.org/a.png"), "https://example.org/a.png is an address"),
        (image_row("data:image/png;base64,AAAA"), "data:image/png;base64,….*bytes that begin with"),
        (image_row("../secret.png"), "leads out of"),
        (image_row("/etc/hostname"), "leads out of"),
    ],
)
def test_bad_rows_stop_the_run_and_say_why(read, tmp_path, png, row, reason):
    (tmp_path / "secret.png").write_bytes(png())
    with pytest.raises(DataError, match=rf"rows.jsonl: 1 of 2 rows.*\n.*rows.jsonl, line 2.*{reason}"):
        read({"prompt": "good"}, row)
    assert not (tmp_path / "run").exists()


def test_an_absolute_path_into_the_directory_is_read(read, folder):
    assert len(read(image_row(str(folder / "pics/red.png"))).media) == 1


def test_links_may_not_lead_out(read, folder, tmp_path, png):
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/key.png").write_bytes(png())
    (folder / "link.png").symlink_to(tmp_path / "secret/key.png")
    (folder / "linked").symlink_to(tmp_path / "secret")
    (folder / "inside.png").symlink_to(folder / "pics/red.png")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    assert read(image_row("inside.png")).media.num_rows == 1
    for path in ("link.png", "linked/key.png"):
        with pytest.raises(DataError, match="leads out of"):
            read(image_row(path))
    with pytest.raises(DataError, match=r"cannot be opened: (Symlink loop|Too many levels)"):
        read(image_row("loop.png"))


def test_pipes_are_not_waited_for(read, folder):
    os.mkfifo(folder / "pipe.png")
    with pytest.raises(DataError, match=r"pipe.png is not a regular file"):
        read(image_row("pipe.png"))


def test_media_that_cannot_be_decoded(read, folder, wav):
    whole = (folder / "pics/red.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "none.wav").write_bytes(wav(np.zeros(0, np.float32)))
    with pytest.raises(DataError) as caught:
        read(image_row("cut.png", prompt_id="p1"), {"prompt": "a", "audios": ["none.wav"]}, image_row())
    message = str(caught.value)
    assert "2 of 3 rows" in message
    assert "line 1 (p1): image cut.png: image/png has a broken header" in message
    assert "line 2: audio none.wav: audio has no samples; replace the file" in message


def test_bad_rows_are_named_in_the_order_of_the_file(read, folder):
    (folder / "cut.png").write_bytes((folder / "pics/red.png").read_bytes()[:50])
    with pytest.raises(DataError, match=r"(?s)line 1:.*cut.png.*line 2:.*prompt is a int.*line 3:.*cut.png"):
        read(image_row("cut.png"), {"prompt": 3}, image_row("cut.png"))


def test_limits_are_kept(read):
    with pytest.raises(DataError, match=r"red.png: \d+ bytes, the limit is 20"):
        read(image_row(), limits=MediaLimits(bytes=20))
    with pytest.raises(DataError, match=r"red.png: image has 48 pixels, the limit is 40"):
        read(image_row(), limits=MediaLimits(pixels=40))


def test_one_file_is_of_one_kind(read):
    with pytest.raises(DataError, match=r"line 2.*clip.webm is used as audio here and as video elsewhere"):
        read({"prompt": "a", "videos": ["clip.webm"]}, {"prompt": "a", "audios": ["clip.webm"]})


def test_prompt_id_names_one_prompt(read):
    with pytest.raises(DataError, match=r"line 3 \(p\): its prompt_id names another prompt in line 1"):
        read({"prompt": "a", "prompt_id": "p"}, {"prompt": "a", "prompt_id": "p"}, {"prompt": "b", "prompt_id": "p"})
    pairs = [{"prompt": "a", "prompt_id": "p", "chosen": "b", "rejected": word, "by": word} for word in "cd"]
    assert read(*pairs, schema=PREFERENCE).records.num_rows == 2


def test_first_bad_rows_are_shown_and_the_rest_counted(read):
    with pytest.raises(DataError) as caught:
        read(*[{"prompt": 3}] * 12, {"prompt": "good"})
    lines = str(caught.value).splitlines()
    assert len(lines) == 7
    assert "12 of 13 rows" in lines[0]
    assert "on_bad_row: quarantine" in lines[0]
    assert lines[-1] == "  … and 7 more"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"media_ids": []}, r"the messages show \[image\] but media_ids are none"),
        ({"media_ids": ["RED", "RED"]}, r"the messages show \[image\] but media_ids are \[image, image\]"),
        ({"media_ids": ["TONE"]}, r"the messages show \[image\] but media_ids are \[audio\]"),
        ({"media_ids": ["unknown"]}, "media_id 'unknown' is not in .*media.parquet"),
        ({"media_ids": ["FALSE"]}, "its bytes are not those that media_id is the sha256 of"),
        ({"messages": None}, "expected messages or prompt, got neither"),
        ({"messages": json.dumps(image_row()["messages"])}, "pics/red.png names media by path"),
    ],
)
def test_bad_rows_of_parquet(tmp_path, png, wav, tone, change, reason):
    red, sound = media_row("image", png()), media_row("audio", wav(tone(440, 8_000), 8_000))
    false = {**media_row("image", png((0, 255, 0))), "media_id": "FALSE"}
    pq.write_table(pa.Table.from_pylist([red, sound, false], schema=MEDIA), tmp_path / "media.parquet")
    row = {"messages": json.dumps([{"role": "user", "content": [{"type": "image"}]}]), "media_ids": ["RED"]} | change
    names = {"RED": red["media_id"], "TONE": sound["media_id"]}
    row["media_ids"] = [names.get(i, i) for i in row["media_ids"]]
    good = {"messages": json.dumps([{"role": "user", "content": "Hi"}]), "media_ids": []}
    pq.write_table(pa.Table.from_pylist([good, row]), tmp_path / "records.parquet")
    with pytest.raises(DataError, match=rf"records.parquet, row 1: .*{reason}"):
        read_records(DataConfig(path=str(tmp_path)), PROMPT, tmp_path / "run")


# Quarantine


def test_quarantine_keeps_the_good_and_sets_the_bad_aside(read, tmp_path, caplog):
    bad = image_row("pics/green.png", prompt_id="p9")
    with caplog.at_level(logging.WARNING):
        found = read({"prompt": "good"}, bad, b"{\xff", image_row(), on_bad_row="quarantine")
    assert found.rows == (0, 3)
    assert found.bad_rows == 2
    assert "2 of 4 rows are bad and were set aside in" in caplog.text
    first, second = quarantined(tmp_path)
    assert first["file"].endswith("rows.jsonl")
    assert (first["row"], first["record_id"], first["record"]) == (1, "p9", bad)
    assert "No such file" in first["reason"]
    assert "below" in first["remedy"]
    assert second["record"] == {"line": "{\N{REPLACEMENT CHARACTER}\n"}


def test_quarantine_of_rows_that_json_cannot_hold(tmp_path):
    messages = json.dumps([{"role": "user", "content": "Hi"}])
    rows = [{"messages": messages, "thumb": None}, {"messages": messages, "thumb": b"\x00" * 9}]
    pq.write_table(
        pa.Table.from_pylist(rows, schema=pa.schema([("messages", pa.string()), ("thumb", pa.binary())])),
        tmp_path / "r.parquet",
    )
    config = DataConfig(path=str(tmp_path / "r.parquet"), on_bad_row="quarantine")
    assert read_records(config, PROMPT, tmp_path / "run").bad_rows == 1
    assert quarantined(tmp_path)[0]["record"]["thumb"] == "<9 bytes>"


def test_half_a_character_can_be_set_aside(read, tmp_path):
    read({"prompt": "good"}, b'{"prompt": "\\ud83d"}', on_bad_row="quarantine")
    assert quarantined(tmp_path)[0]["record"] == {"prompt": "\ud83d"}


def test_reading_again_replaces_what_the_file_had_set_aside(read, tmp_path):
    other = DataConfig(path=str(tmp_path / "other.jsonl"), on_bad_row="quarantine")
    (tmp_path / "other.jsonl").write_text('{"prompt": "a"}\n{"prompt": 1}\n')
    for _ in range(2):
        read_records(other, PROMPT, tmp_path / "run")
        read({"prompt": "good"}, {"prompt": 3}, {"prompt": 4}, on_bad_row="quarantine")
        assert len(quarantined(tmp_path)) == 3
    read({"prompt": "good"}, on_bad_row="quarantine")
    assert [entry["file"] for entry in quarantined(tmp_path)] == [other.path]


def test_later_checks_can_add_to_the_quarantine(read, tmp_path):
    found = read({"prompt": 3}, {"prompt": "long", "prompt_id": "p"}, {"prompt": "good"}, on_bad_row="quarantine")
    row = BadRow(found.file, found.rows[0], "p", "prompt has 9 tokens, the limit is 8", "shorten it")
    for _ in range(2):
        settle([Rejected(row, {"prompt_id": "p"})], 1, found.file, "quarantine", tmp_path / "run")
    assert [entry["row"] for entry in quarantined(tmp_path)] == [0, 1]
    with pytest.raises(DataError, match=r"line 2 \(p\): prompt has 9 tokens, the limit is 8; shorten it"):
        settle([Rejected(row, {})], 1, found.file, "fail", tmp_path / "run")


def test_a_file_with_no_good_row_is_an_error(read, tmp_path):
    with pytest.raises(DataError, match=r"no usable row among 1\n.*prompt is a int"):
        read({"prompt": 3}, on_bad_row="quarantine")
    assert len(quarantined(tmp_path)) == 1
    for on_bad_row in ("fail", "quarantine"):
        with pytest.raises(DataError, match=r"no (rows|usable row)"):
            read(on_bad_row=on_bad_row)


# Files that cannot be read


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("none.jsonl", None, "none.jsonl does not exist; correct the path"),
        ("rows.txt", b"a,b", "ends in '.txt'; give a .jsonl or .parquet file"),
        ("rows.parquet", b"PAR1 not", "is not a readable Parquet file"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, content, reason):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=reason):
        read_records(DataConfig(path=str(tmp_path / name)), PROMPT, tmp_path / "run")


def test_directory_without_records(tmp_path):
    with pytest.raises(DataError, match=r"records.parquet does not exist"):
        read_records(DataConfig(path=str(tmp_path)), PROMPT, tmp_path / "run")


def test_media_file_with_other_columns(tmp_path):
    messages = json.dumps([{"role": "user", "content": "Hi"}])
    pq.write_table(pa.table({"messages": [messages]}), tmp_path / "records.parquet")
    pq.write_table(pa.table({"id": [1]}), tmp_path / "media.parquet")
    with pytest.raises(DataError, match=r"media.parquet is no MEDIA table.*it needs columns \['media_id'"):
        read_records(DataConfig(path=str(tmp_path)), PROMPT, tmp_path / "run")


# Writing


def test_write_refuses_what_could_not_be_read_back(read, tmp_path):
    found = read(image_row())
    with pytest.raises(DataError, match="media lacks 1 media_ids"):
        write_records(tmp_path / "out", found.records, MEDIA.empty_table())
    with pytest.raises(DataError, match="media_id twice"):
        write_records(tmp_path / "out", found.records, pa.concat_tables([found.media, found.media]))
    with pytest.raises(DataError, match="expects one of PROMPT, DEMONSTRATION, .* got 'no metadata'"):
        write_records(tmp_path / "out", found.records.replace_schema_metadata(None), found.media)
    assert not (tmp_path / "out").exists()


def test_write_never_replaces_other_files(read, tmp_path):
    found = read(image_row())
    target = tmp_path / "thesis"
    target.mkdir()
    (target / "chapter.txt").write_text("years of work")
    with pytest.raises(DataError, match=r"holds 'chapter.txt'"):
        write_records(target, found.records, found.media)
    assert (target / "chapter.txt").read_text() == "years of work"


def test_a_failed_write_leaves_the_old_directory(read, tmp_path, monkeypatch):
    found = read(image_row())
    write_records(tmp_path / "out", found.records, found.media)
    before = (tmp_path / "out/records.parquet").read_bytes()

    def full_disk(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_records(tmp_path / "out", found.records.slice(0, 0), found.media)
    assert (tmp_path / "out/records.parquet").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "out"]
