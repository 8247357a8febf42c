"""Weights & Biases offline, read back by its own reader."""

import json
import struct

import pytest
from PIL import Image

from mmrlhf_ray.tracking.apart import Apart
from mmrlhf_ray.tracking.tracker import TrackedRun
from tests.unit.tracking.runs import RED, names, write

pytest.importorskip("wandb")
KINDS = (("image", "filenames"), ("audio", "audio"), ("video", "videos"))
BLOCK, FULL, LAST = 1 << 15, 1, 4


@pytest.fixture(autouse=True)
def _no_account(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def read(file):
    """Every record of a run's file: a log in LevelDB's format, whose blocks hold wandb's own messages."""
    from wandb.proto import wandb_internal_pb2

    data, at, whole = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if BLOCK - at % BLOCK < 7:  # no room for a header: the rest of the block is empty
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        whole, at = whole + data[at + 7 : at + 7 + length], at + 7 + length
        if kind in (FULL, LAST):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            whole = b""
            yield record


def rows(file):
    history = (record.history for record in read(file) if record.HasField("history"))
    return [{i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in row.item} for row in history]


def test_curves_configuration_and_a_picture_come_back_and_a_resumed_run_is_the_same_one(tmp_path):
    write(tmp_path, ["wandb"], range(6))
    run_dir = write(tmp_path, ["wandb"], range(4, 8), resume_step=4)
    files = sorted(run_dir.glob("wandb/offline-run-*/run-*.wandb"), key=lambda file: file.stat().st_mtime)
    assert [file.name for file in files] == [f"run-{names(run_dir)}.wandb"] * 2
    curves = [[(row["step"], row["reward/score"]) for row in rows(file) if "reward/score" in row] for file in files]
    assert curves == [[(n, n) for n in range(6)], [(n, n + 0.25) for n in range(4, 8)]]
    assert "policy/kl" not in rows(files[0])[0]
    (run,) = [record.run for record in read(files[1]) if record.HasField("run")]
    said = {item.key: item.value_json for item in run.config.update}
    assert (run.display_name, run.job_type, json.loads(said["steps"])) == ("a-run", "sft", 10)
    assert "a-secret" not in json.dumps(said)
    (shown,) = [row for row in rows(files[1]) if "samples/table/path" in row]
    assert [len(shown[f"samples/{kind}/{names}"]) for kind, names in KINDS] == [2, 1, 1]
    with Image.open(files[1].parent / "files" / shown["samples/image/filenames"][0]) as image:
        assert (image.size, image.getpixel((3, 3))) == ((12, 8), RED)
    written = json.loads((files[1].parent / "files" / shown["samples/table/path"]).read_text())
    assert written["columns"] == ["task", "prompt", "response", "score", "kl", "image 0", "audio 0", "video 0"]
    assert written["data"][0][:4] == ["digit", "Which digit?", "A seven.", 0.75]
    assert [row[5:] for row in written["data"]] == [
        ["Image", None, None], [None, "Audio", None], ["Image", None, "Video"],
    ]  # fmt: skip


def test_a_server_that_cannot_be_reached_stops_nothing_and_is_told_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "2")
    tracker = Apart("wandb", TrackedRun(tmp_path, "sft", {}, "an-id"), start_s=60.0, close_s=1.0)
    for step in range(3):
        tracker.log(step, {"reward/score": 1.0})
    tracker.close()
    (said,) = caplog.messages
    assert said.startswith("wandb is not used any more: ")
