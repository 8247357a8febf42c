"""References to media: every kind is read, and none leads where it may not."""

import base64
import os
import re
import socket

import pytest

from mmrlhf_ray.config.data import MediaLimits, RemoteMedia
from mmrlhf_ray.data.errors import RowError
from mmrlhf_ray.data.media import media_id
from mmrlhf_ray.data.records.sources import (
    DerivedMedia,
    FileMedia,
    MediaPlace,
    load_media,
    named_references,
    shown_name,
)
from mmrlhf_ray.data.validate import MediaPart, conversation
from tests.unit.tiny import noise, picture

RED = picture(1)


@pytest.fixture
def place(tmp_path):
    root = tmp_path / "root"
    (root / "pics").mkdir(parents=True)
    (root / "pics" / "red.png").write_bytes(RED)
    (tmp_path / "secret.png").write_bytes(RED)
    return MediaPlace(root)


ENCODED = base64.b64encode(RED).decode()


@pytest.mark.parametrize(
    "reference",
    [
        "pics/red.png",
        "./pics/../pics/red.png",
        RED,
        f"data:image/png;base64,{ENCODED}",
        f"data:text/plain;charset=x;BASE64,{ENCODED}",
        f"DATA:image/png;Base64,{ENCODED}",
        f"data:;base64,{ENCODED[:40]}\n{ENCODED[40:]}",
        "data:image/png," + "".join(f"%{byte:02x}" for byte in RED),
        {"bytes": RED, "path": None},
        {"bytes": RED, "path": "/somewhere/else.png"},
        {"bytes": RED},
        {"bytes": None, "path": "pics/red.png"},
        {"path": "pics/red.png"},
    ],
    ids=str,
)
def test_every_kind_of_reference_gives_the_same_row(place, reference):
    row = load_media("image", reference, place)
    assert row == {"media_id": media_id(RED), "kind": "image", "mime": "image/png", "data": RED}


def test_links_inside_are_followed(place):
    (place.root / "link.png").symlink_to("pics/red.png")
    (place.root / "dir").symlink_to(place.root / "pics")
    assert load_media("image", "link.png", place)["data"] == RED
    assert load_media("image", "dir/red.png", place)["data"] == RED


def test_absolute_paths_inside_are_followed(place):
    assert load_media("image", str(place.root / "pics" / "red.png"), place)["data"] == RED
    assert load_media("image", str(place.root / "pics" / ".." / "pics" / "red.png"), place)["data"] == RED
    with pytest.raises(RowError, match="leads out of"):
        load_media("image", str(place.root / ".." / "secret.png"), place)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("pics\\red.png", r"there is 'pics/red.png'"),
        ("pics/RED.PNG", r"there is 'pics/red.png'"),
        ("Pics/red.png", r"there is 'pics/red.png'"),
        ("pics/my%20dog.png", r"there is 'pics/my dog.png'"),
        ("pics%2Fmy%20dog.png", r"there is 'pics/my dog.png'"),
        ("pics/na\u0308her.png", "there is 'pics/n\u00e4her.png'"),
        ("pics\\none.png", "write / between directories"),
        (ENCODED, 'write "data:;base64,"'),
        ("/9j/" + "A" * 80, 'write "data:;base64,"'),
        ("none.png", "put it below"),
        ("../secret.PNG", "put it below"),
    ],
)
def test_a_name_that_leads_nowhere_comes_with_what_was_meant(place, name, remedy):
    for known in ("my dog.png", "n\u00e4her.png"):
        (place.root / "pics" / known).write_bytes(RED)
    with pytest.raises(RowError, match="cannot be opened") as caught:
        load_media("image", name, place)
    assert re.search(remedy, caught.value.remedy)


def test_the_cache_of_the_hub_is_named(tmp_path):
    snapshot, blobs = tmp_path / "datasets--a--b" / "snapshots" / "f00", tmp_path / "datasets--a--b" / "blobs"
    for directory in (snapshot, blobs):
        directory.mkdir(parents=True)
    (blobs / "0123").write_bytes(RED)
    (snapshot / "a.png").symlink_to("../../blobs/0123")
    with pytest.raises(RowError, match=r"leads out of .*local_dir=…"):
        load_media("image", "a.png", MediaPlace(snapshot))


@pytest.mark.parametrize("name", ["a.png", "/data/a.png"])
def test_rows_that_lie_in_no_directory_need_a_media_root(name):
    with pytest.raises(RowError, match=r"is a path, .*; set data.media_root \(--media-root\)"):
        load_media("image", name, MediaPlace(None))


def make_link(name, target):
    return lambda root: (root / name).symlink_to(target)


def make_fifo(root):
    os.mkfifo(root / "pipe.png")


def make_socket(root):
    here = os.getcwd()
    os.chdir(root)  # the path of a socket must be short
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("socket.png")
    finally:
        os.chdir(here)


@pytest.mark.parametrize(
    ("prepare", "reference", "reason"),
    [
        (None, "../secret.png", "leads out of"),
        (None, "pics/../../secret.png", "leads out of"),
        (None, "/etc/hostname", "leads out of"),
        (None, "/dev/zero", "leads out of"),
        (make_link("out.png", "../secret.png"), "out.png", "leads out of"),
        (make_link("far.png", "/etc/hostname"), "far.png", "leads out of"),
        (make_link("up", ".."), "up/secret.png", "leads out of"),
        (make_link("zero.png", "/dev/zero"), "zero.png", "leads out of"),
        (make_link("loop.png", "loop.png"), "loop.png", "cannot be opened"),
        (make_fifo, "pipe.png", "is not a regular file"),
        (make_socket, "socket.png", "cannot be read|not a regular file"),
        (None, "a\0b.png", "cannot be opened: .*embedded null"),
        (None, "pics", "is not a regular file"),
        (None, "", "the name of a file is empty"),
        (None, "none.png", "No such file"),
        (None, "a" * 5_000, "File name too long"),
        (
            None,
            "file:///etc/hostname",
            "is not fetched; give the path alone, /etc/hostname",
        ),
        (None, "s3://bucket/a.png", "is an address of a kind that is not fetched"),
        (None, "https://example.org/a.png", "is an address; .*data.remote.allow_hosts"),
        (None, "data:image/png;base64", "without a comma"),
        (None, "data:image/png;base64,@@@@", "not base64"),
        (None, "data:image/png;base64,AAA", "not base64"),
        (None, "data:image/png;base64,é", "not base64"),
        (None, "data:image/png;base64,", "an empty file"),
        (None, b"", "an empty file"),
        (None, b"hello", "bytes that begin with"),
        (None, {"bytes": None, "path": "../secret.png"}, "leads out of"),
        (None, {"bytes": None, "path": "https://example.org/a.png"}, "is an address"),
    ],
)
def test_what_leads_elsewhere_or_nowhere_is_refused(place, prepare, reference, reason):
    if prepare is not None:
        prepare(place.root)
    with pytest.raises(RowError, match=reason):
        load_media("image", reference, place)


@pytest.mark.parametrize(
    "reference", ["pics/red.png", RED, f"data:;base64,{ENCODED}", "data:," + "%41" * 200], ids=lambda r: str(r)[:12]
)
def test_size_is_limited_before_anything_is_read(place, reference):
    small = MediaPlace(place.root, MediaLimits(bytes=20))
    with pytest.raises(RowError, match="the limit is 20|longer than 20 bytes"):
        load_media("image", reference, small)


def test_another_kind_is_refused(place):
    with pytest.raises(RowError, match="expected audio .*got image/png"):
        load_media("audio", "pics/red.png", place)


@pytest.mark.parametrize(
    ("reference", "shown"),
    [
        (b"abc", "<3 bytes>"),
        ({"bytes": b"abc", "path": "a.png"}, "a.png"),
        ({"bytes": b"abc", "path": None}, "<3 bytes>"),
        ("data:image/png;base64,AAAA", "data:image/png;base64,…"),
        ("https://me:secret@example.org/a.png?token=secret", "https://example.org/a.png"),
        ("pics/a.png", "pics/a.png"),
    ],
    ids=str,
)
def test_messages_show_no_contents_and_no_secrets(reference, shown):
    assert shown_name(reference) == shown


def test_parts_take_their_own_reference_or_the_next_of_the_list():
    parts = [MediaPart("image", None), MediaPart("image", b"own"), MediaPart("audio", None), MediaPart("image", None)]
    raw = {"images": ["a.png", {"bytes": b"b", "path": None}], "audios": ["s.wav"]}
    assert named_references(raw, parts) == [
        ("image", "a.png"),
        ("image", b"own"),
        ("audio", "s.wav"),
        ("image", {"bytes": b"b", "path": None}),
    ]


def test_rows_may_hold_bytes_wherever_they_may_hold_paths():
    _, parts = conversation({"messages": [{"role": "user", "content": [{"type": "image", "image": {"bytes": RED}}]}]})
    assert parts == [MediaPart("image", {"bytes": RED})]


@pytest.mark.parametrize(
    "reference",
    [{}, {"bytes": None, "path": None}, {"bytes": "text"}, {"path": 3}, {"array": [1], "path": "a"}, 7, None],
)
def test_what_is_no_reference_is_refused(reference):
    with pytest.raises(RowError, match=r"images\[0\]"):
        named_references({"images": [reference]}, [MediaPart("image", None)])


def test_a_file_is_read_once_and_has_one_kind(place):
    media = FileMedia(place.root)
    parts = [MediaPart("image", "pics/red.png"), MediaPart("image", RED)]
    shown = media.attach({}, parts)
    assert [s.media_id for s in shown] == [media_id(RED)] * 2
    assert [s.name for s in shown] == ["pics/red.png", f"<{len(RED)} bytes>"]
    (place.root / "pics" / "red.png").unlink()
    assert media.attach({}, parts[:1]) == shown[:1]
    assert media.table({media_id(RED)}).num_rows == 1
    gif = b"GIF89a" + bytes(20)
    media.attach({}, [MediaPart("image", gif)])
    with pytest.raises(RowError, match="used as video here and as image elsewhere"):
        media.attach({}, [MediaPart("video", gif)])


def test_made_media_are_served_with_the_others(place):
    media = DerivedMedia(FileMedia(place.root, remote=RemoteMedia()))
    (shown,) = media.attach({}, [MediaPart("image", RED)])
    row = load_media("audio", noise(1, 0.1), place)
    media.add(row)
    assert media.get(row["media_id"]) == row
    assert media.get(shown.media_id)["data"] == RED
    both = media.table({row["media_id"], shown.media_id})
    assert sorted(both["media_id"].to_pylist()) == sorted([row["media_id"], shown.media_id])
    assert media.table({shown.media_id})["media_id"].to_pylist() == [shown.media_id]
