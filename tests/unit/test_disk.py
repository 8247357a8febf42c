"""What keeps a file from being written is told with its path, its disk and the remedy: on real disks and limits."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from mmrlhf_ray.config import RunConfig, save_config
from mmrlhf_ray.data.encoding.cache import SpillDirectory
from mmrlhf_ray.data.errors import BadRow
from mmrlhf_ray.data.records.quarantine import FILE_NAME as QUARANTINE
from mmrlhf_ray.data.records.quarantine import Rejected, settle
from mmrlhf_ray.disk import writing
from mmrlhf_ray.errors import KnownError, RunError, RunFailed
from mmrlhf_ray.models.export import _published
from mmrlhf_ray.pipelines.run_dir import TRACE_FILE, run_directory
from mmrlhf_ray.runtime.metrics import MetricsWriter, read_metrics
from mmrlhf_ray.tracking.tensorboard import TensorBoard
from mmrlhf_ray.tracking.tracker import TrackedRun
from mmrlhf_ray.training.checkpoint import Manifest, newest_complete, publish, staged

PAGE = 4096
Mount = Callable[[str], Path]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """`mount("size=1m")`: a small disk of its own, in memory."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    mounted = []

    def make(options: str) -> Path:
        target = tmp_path / "disk"
        target.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", target], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
        mounted.append(target)
        return target

    yield make
    for target in mounted:
        subprocess.run(["umount", "-l", target], check=True)


def remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", disk], check=True)


def fill(disk: Path, leave: int = 0) -> None:
    """Until no more than `leave` bytes are free."""
    with (disk / "fill").open("wb") as file:
        while (free := os.statvfs(disk).f_bavail * PAGE) > leave:
            file.write(bytes(min(free - leave, 1 << 20)))
            file.flush()


def config(disk: Path) -> RunConfig:
    return RunConfig.model_validate({"name": "run", "output_dir": str(disk)})


def checkpoint(run_dir: Path, step: int, size: int) -> None:
    with staged(run_dir, step) as path:
        (path / "weights").write_bytes(bytes(size))
        publish(path, Manifest(step=step, policy_version=step, seed=0, ranks={}), keep=2)


def left(run_dir: Path) -> list[str]:
    return sorted(str(path.relative_to(run_dir)) for path in run_dir.rglob("*") if path.is_file())


def test_a_full_disk_is_refused_at_the_start_and_keeps_what_is_there(mount: Mount) -> None:
    disk = mount("size=64k")
    with run_directory(config(disk)) as run_dir:
        before = (run_dir / "config.yaml").read_bytes()
    fill(disk)
    with (
        pytest.raises(RunError, match=rf"output_dir: {disk}/run: no room left .* disk at {disk} has 0 of 0 MiB free"),
        run_directory(config(disk)),
    ):
        pytest.fail("began on a full disk")
    assert left(run_dir) == [".lock", "config.yaml", "run.html"]
    assert (run_dir / "config.yaml").read_bytes() == before


def test_a_report_that_finds_no_room_takes_nothing_from_the_run(mount: Mount, caplog: pytest.LogCaptureFixture) -> None:
    disk = mount("size=64k")
    with run_directory(config(disk)) as run_dir:
        fill(disk)
    assert left(run_dir) == [".lock", "config.yaml"]
    assert (
        f"no report on the run: [Errno 28] No space left on device; try again with: mmrlhf report {run_dir}"
        in caplog.text
    )


def test_a_disk_without_inodes_is_told_from_a_full_one(mount: Mount) -> None:
    disk = mount("size=1m,nr_inodes=3")
    with pytest.raises(RunError, match="1 MiB free, but no inode; free some"), run_directory(config(disk)):
        pytest.fail("began without a file")


def test_a_read_only_disk_is_refused_at_the_start(mount: Mount) -> None:
    disk = mount("ro")
    expected = rf"output_dir: {disk}/run: cannot be written: the disk at {disk} is read-only.*set output_dir to another"
    with pytest.raises(RunError, match=expected), run_directory(config(disk)):
        pytest.fail("began on a read-only disk")


def test_a_checkpoint_that_finds_no_room_leaves_the_last_good_one_and_no_debris(mount: Mount) -> None:
    disk = mount("size=1m")
    checkpoint(disk, 1, 600 << 10)
    with pytest.raises(RunFailed, match=rf"step-00000002\.partial: no room left .* the disk at {disk} has 0 of 1 MiB"):
        checkpoint(disk, 2, 600 << 10)
    found = newest_complete(disk)
    assert found is not None
    assert found.manifest.step == 1
    assert left(disk) == ["checkpoints/step-00000001/manifest.json", "checkpoints/step-00000001/weights"]


def test_a_disk_that_becomes_read_only_is_named_and_its_checkpoints_stay(mount: Mount) -> None:
    disk = mount("size=1m")
    checkpoint(disk, 1, 1 << 10)

    def save() -> None:
        with staged(disk, 2) as path:
            remount(disk, "ro")
            with writing(path):
                (path / "weights").write_bytes(b"weights")

    with pytest.raises(
        RunFailed, match=rf"step-00000002\.partial: .* the disk at {disk} is read-only.*make it writable"
    ):
        save()
    found = newest_complete(disk)
    assert found is not None
    assert found.manifest.step == 1


def test_an_export_that_finds_no_room_leaves_the_earlier_one(mount: Mount) -> None:
    disk = mount("size=1m")
    (disk / "model").mkdir()
    (disk / "model" / "config.json").write_text("earlier")

    def export() -> None:
        with _published(disk / "model") as fresh:
            fresh.mkdir()
            (fresh / "weights").write_bytes(bytes(2 << 20))

    with pytest.raises(RunFailed, match=rf"{disk}/model: no room left to write it: the disk at {disk}"):
        export()
    assert left(disk) == ["model/config.json"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # TensorBoard's writer is a thread
@pytest.mark.parametrize("leave", [0, PAGE, 2 * PAGE])
def test_metrics_that_find_no_room_are_told_and_what_was_logged_can_be_read(mount: Mount, leave: int) -> None:
    """Whether the line or TensorBoard's event is what does not fit."""
    disk = mount("size=256k")

    def log() -> None:
        with MetricsWriter(disk, "ppo") as writer, closing(TensorBoard(TrackedRun(disk, "ppo", {}, "id"))) as board:
            writer.log(0, {"score": 0.5})
            fill(disk, leave)
            for step in range(1, 200):
                metrics = {f"metric_{number}": 1.0 for number in range(100)}
                writer.log(step, metrics)
                board.log(step, metrics)

    with pytest.raises(RunFailed, match=rf"{disk}/.*: no room left to write it: the disk at {disk}"):
        log()
    assert read_metrics(disk)[0]["score"] == 0.5


def test_an_error_that_nobody_expected_is_told_too_and_its_trace_goes_elsewhere(
    mount: Mount, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = mount("size=64k")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def run() -> None:
        with run_directory(config(disk)) as run_dir:
            fill(disk)
            (run_dir / "report.html").write_text("report")

    with pytest.raises(KnownError, match=rf"{disk}/run: no room left to write it: the disk at {disk}") as caught:
        run()
    assert type(caught.value) is RunFailed
    assert caught.value.__cause__ is not None
    (note,) = caught.value.__cause__.__notes__
    assert Path(note.removeprefix("the full trace is in ")).parent == tmp_path
    assert TRACE_FILE not in left(disk / "run"), "a trace that was cut off"


def test_rows_and_features_that_find_no_room_leave_what_was_there(mount: Mount) -> None:
    disk = mount("size=64k")
    bad = Rejected(BadRow("rows.jsonl", 1, "p1", "is bad", "Fix it"), {"prompt": "x"})
    settle([bad], 1, "rows.jsonl", "quarantine", disk)
    before = (disk / QUARANTINE).read_bytes()
    fill(disk)
    long = Rejected(BadRow("rows.jsonl", 2, "p2", "is bad", "Fix it"), {"prompt": "x" * 2 * PAGE})
    with pytest.raises(RunFailed, match=rf"{disk}/{QUARANTINE}: no room left .* set output_dir to another disk"):
        settle([long], 1, "rows.jsonl", "quarantine", disk)
    with pytest.raises(RunFailed, match=rf"{disk}/.*: no room left .* set data.spill_dir to another disk"):
        SpillDirectory(disk, 1 << 20).put("key", {"x": np.zeros(2 * PAGE, np.uint8)})
    assert (disk / QUARANTINE).read_bytes() == before
    assert [name for name in left(disk) if name != "fill" and not name.endswith(".lock")] == [QUARANTINE]


def test_a_configuration_that_finds_no_room_leaves_nothing(mount: Mount) -> None:
    disk = mount("size=8k")
    fill(disk)
    with pytest.raises(OSError, match="No space left"):
        save_config(config(disk), disk / "config.yaml")
    assert left(disk) == ["fill"]


def test_too_many_open_files_are_told_with_both_limits(tmp_path: Path) -> None:
    code = (
        "import resource\n"
        "from pathlib import Path\n"
        "from mmrlhf_ray.disk import writing\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (20, 30))\n"
        "held = []\n"
        "try:\n"
        f"    with writing(Path({str(tmp_path)!r})):\n"
        f"        held += [open({str(tmp_path / 'file')!r}, 'w') for _ in range(40)]\n"
        "except Exception as error:\n"
        "    held.clear()\n"
        "    print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == (
        f"RunFailed {tmp_path}: cannot be written: this process has 20 files open, and may not have more (hard limit "
        "30); raise it: ulimit -n 65536\n"
    )


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE])
def test_a_disk_that_does_not_answer_is_named(tmp_path: Path, code: int) -> None:
    with (
        pytest.raises(
            RunFailed, match=rf"{tmp_path}: .* disk at /.* does not take it \({os.strerror(code)}\); see to it"
        ),
        writing(tmp_path),
    ):
        raise OSError(code, os.strerror(code))


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), writing(tmp_path):
        (tmp_path / "none" / "file").write_text("")
