"""A run's directory at a URL: uploaded behind the run, complete or not there, and taken from there by a resume."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import pytest
from fsspec import AbstractFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from mmrlhf_ray.errors import ConfigError, DeadlineExceeded, RunError, RunFailed
from mmrlhf_ray.runtime import mirror as module
from mmrlhf_ray.runtime.mirror import Mirror, mirrored, storage
from mmrlhf_ray.training.checkpoint import MANIFEST, Manifest, newest_complete, publish, stage

PATIENCE_S = 60.0
SOON_S = 0.02
ONLY_HERE = (".lock", "ray_train/x", "model.previous/config.json", "eval.parquet.partial")
ALSO_THERE = ("config.yaml", "rollouts/step-000000.parquet")


@pytest.fixture(params=["memory", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A place of this test's own."""
    if request.param == "file":
        yield f"file://{tmp_path}/far/run"
        return
    place = f"memory://{uuid4().hex}/run"
    yield place
    fs, path = fsspec.url_to_fs(place)
    if fs.exists(path):
        fs.rm(path, recursive=True)


@pytest.fixture
def memory_url() -> str:
    return f"memory://{uuid4().hex}/run"


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    path = tmp_path / "here" / "run"
    path.mkdir(parents=True)
    return path


def checkpoint(run_dir: Path, step: int, content: str = "", keep: int = 2) -> Path:
    path = stage(run_dir, step)
    for name in ("policy/state/weights", "critic/state/weights", "policy/layout.json"):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(f"{name} of {step}{content}")
    with (run_dir / "metrics.jsonl").open("a") as metrics:
        metrics.write(f'{{"step": {step - 1}}}\n')
    return publish(path, Manifest(step=step, policy_version=step, seed=0, ranks={"policy": 1}), keep)


def model(run_dir: Path, content: str) -> None:
    (run_dir / "model").mkdir(exist_ok=True)
    for name in ("config.json", "model.safetensors", "a.txt"):
        (run_dir / "model" / name).write_text(content)


def there(url: str) -> list[str]:
    fs, root = fsspec.url_to_fs(url)
    fs.invalidate_cache()
    return sorted(path[len(root) + 1 :] for path in fs.find(root))


def here(run_dir: Path) -> dict[str, bytes]:
    return {str(p.relative_to(run_dir)): p.read_bytes() for p in run_dir.rglob("*") if p.is_file()}


def upload(run_dir: Path, url: str, patience_s: float = PATIENCE_S) -> None:
    with mirrored(run_dir, url, resume=True, patience_s=patience_s, every_s=SOON_S):
        pass


def unsent(url: str, run_dir: Path, why: str) -> str:
    return f"{url}: not everything was uploaded: {why}; it lies in {run_dir}, and --resume uploads it"


def wait_for(done: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not done():
        assert time.monotonic() < until
        time.sleep(SOON_S)


def test_all_of_a_run_is_there_in_the_end_but_what_is_of_this_machine(run_dir: Path, url: str) -> None:
    with mirrored(run_dir, url, resume=False, patience_s=PATIENCE_S, every_s=SOON_S):
        for name in (*ONLY_HERE, *ALSO_THERE):
            (run_dir / name).parent.mkdir(exist_ok=True)
            (run_dir / name).write_text(name)
        checkpoint(run_dir, 1)
        model(run_dir, "exported")
        (run_dir / "checkpoints" / ".step-00000002.partial").mkdir()
        (run_dir / "checkpoints" / ".step-00000002.partial" / "half").write_text("half")
    assert there(url) == sorted(
        [
            *(f"checkpoints/step-00000001/{name}" for name in here(run_dir / "checkpoints" / "step-00000001")),
            *(f"model/{name}" for name in ("a.txt", "config.json", "model.safetensors")),
            *ALSO_THERE,
            "metrics.jsonl",
        ]
    )
    fs, root = fsspec.url_to_fs(url)
    assert fs.cat_file(f"{root}/model/config.json") == b"exported"


def test_it_is_uploaded_behind_the_run(run_dir: Path, url: str) -> None:
    with mirrored(run_dir, url, resume=False, patience_s=PATIENCE_S, every_s=SOON_S):
        checkpoint(run_dir, 1)
        wait_for(lambda: f"checkpoints/step-00000001/{MANIFEST}" in there(url))
        (run_dir / "metrics.jsonl").write_text("more")
        fs, root = fsspec.url_to_fs(url)
        wait_for(lambda: fs.cat_file(f"{root}/metrics.jsonl") == b"more")


def test_as_many_are_kept_there_as_here(run_dir: Path, url: str) -> None:
    with mirrored(run_dir, url, resume=False, patience_s=PATIENCE_S, every_s=SOON_S):
        for step in (1, 2, 3):
            checkpoint(run_dir, step)
            wait_for(lambda step=step: f"checkpoints/step-{step:08d}/{MANIFEST}" in there(url))
    found = {name.split("/")[1] for name in there(url) if name.startswith("checkpoints/")}
    assert found == {"step-00000002", "step-00000003"}


def test_what_lies_here_of_an_earlier_run_stays_here(run_dir: Path, url: str) -> None:
    checkpoint(run_dir, 1)
    model(run_dir, "earlier")
    (run_dir / "config.yaml").write_text("new")
    with mirrored(run_dir, url, resume=False, patience_s=PATIENCE_S, every_s=SOON_S):
        pass
    assert there(url) == ["config.yaml"]
    with mirrored(run_dir, url, resume=False, patience_s=PATIENCE_S, every_s=SOON_S):
        checkpoint(run_dir, 1)
    assert f"checkpoints/step-00000001/{MANIFEST}" in there(url)
    assert "model/config.json" not in there(url)


def test_a_step_that_is_published_again_replaces_the_one_there(run_dir: Path, url: str) -> None:
    checkpoint(run_dir, 1)
    upload(run_dir, url)
    checkpoint(run_dir, 1, " again")
    upload(run_dir, url)
    fs, root = fsspec.url_to_fs(url)
    assert fs.cat_file(f"{root}/checkpoints/step-00000001/policy/layout.json") == b"policy/layout.json of 1 again"


class Order:
    """Notes what is uploaded, and fails or stands still where told to."""

    def __init__(self, fs: AbstractFileSystem, fails: Callable[[str, int], Exception | None] = lambda name, n: None):
        self.names: list[str] = []
        self._put, self._fails = fs.put_file, fails

    def __call__(self, local: str, remote: str, **options: Any) -> None:
        self.names.append(remote)
        error = self._fails(remote, len(self.names))
        if error is not None:
            raise error
        self._put(local, remote, **options)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Order]:
    def put(*arguments: Any) -> Order:
        order = Order(fsspec.filesystem("memory"), *arguments)
        monkeypatch.setattr(MemoryFileSystem, "put_file", lambda self, local, remote, **options: order(local, remote))
        return order

    return put


def test_what_makes_it_whole_comes_last(run_dir: Path, memory_url: str, watched: Callable[..., Order]) -> None:
    order = watched()
    checkpoint(run_dir, 1)
    model(run_dir, "exported")
    upload(run_dir, memory_url)
    names = [name.rpartition("/run/")[2] for name in order.names]
    assert names[-1] == f"checkpoints/step-00000001/{MANIFEST}"
    assert names.index("metrics.jsonl") < names.index("checkpoints/step-00000001/policy/layout.json")
    last = names.index("model/config.json")
    assert max(names.index("model/a.txt"), names.index("model/model.safetensors")) < last


@pytest.mark.parametrize("resume", [False, True])
def test_a_storage_that_fails_is_tried_again(
    run_dir: Path, memory_url: str, watched: Callable[..., Order], caplog: pytest.LogCaptureFixture, resume: bool
) -> None:
    watched(lambda name, number: ConnectionError("reset by peer") if number in (2, 3) else None)
    with mirrored(run_dir, memory_url, resume=resume, patience_s=PATIENCE_S, every_s=SOON_S):
        checkpoint(run_dir, 1)
    assert f"checkpoints/step-00000001/{MANIFEST}" in there(memory_url)
    assert "failed and will be tried again: ConnectionError: reset by peer" in caplog.text


def test_a_checkpoint_of_which_a_file_is_missing_has_no_manifest(
    run_dir: Path, memory_url: str, watched: Callable[..., Order]
) -> None:
    watched(lambda name, number: PermissionError("quota") if name.endswith("critic/state/weights") else None)
    checkpoint(run_dir, 1)
    with pytest.raises(RunFailed) as refused:
        upload(run_dir, memory_url, patience_s=0.3)
    assert str(refused.value) == unsent(memory_url, run_dir, "PermissionError: quota")
    assert MANIFEST not in "".join(there(memory_url))
    assert Mirror(run_dir, memory_url).newest() is None


def test_a_storage_that_stands_still_is_given_up(run_dir: Path, memory_url: str, watched: Callable[..., Order]) -> None:
    released = threading.Event()
    watched(lambda name, number: (released.wait(PATIENCE_S), None)[1])
    checkpoint(run_dir, 1)
    with pytest.raises(RunFailed) as refused:
        upload(run_dir, memory_url, patience_s=0.3)
    assert str(refused.value) == unsent(memory_url, run_dir, "nothing moved for 0.3 s")
    released.set()


def test_an_error_of_the_run_is_told_first(run_dir: Path, memory_url: str, watched: Callable[..., Order]) -> None:
    def run() -> None:
        with mirrored(run_dir, memory_url, resume=False, patience_s=0.3, every_s=SOON_S):
            (run_dir / "error.txt").write_text("trace")
            raise ValueError("its own")

    with pytest.raises(ValueError, match="its own"):
        run()
    assert there(memory_url) == ["error.txt"]
    watched(lambda name, number: ConnectionError("reset"))
    (run_dir / "error.txt").write_text("another")
    with pytest.raises(ValueError, match="its own") as caught:
        run()
    assert caught.value.__notes__ == [unsent(memory_url, run_dir, "ConnectionError: reset")]


def test_a_place_that_cannot_be_written_to_is_refused_at_once(
    run_dir: Path, memory_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*arguments: Any, **options: Any) -> None:
        raise PermissionError("Access Denied")

    monkeypatch.setattr(module, "_RETRIES_S", (0.0,))
    monkeypatch.setattr(MemoryFileSystem, "pipe_file", denied)
    expected = f"output_dir: cannot write to {memory_url}: PermissionError: Access Denied; check the address and"
    with pytest.raises(RunError, match=expected), mirrored(run_dir, memory_url, resume=False, patience_s=PATIENCE_S):
        pytest.fail("began")


@pytest.mark.parametrize(("url", "words"), [("nope://b/r", "Protocol not known: nope"), ("adl://b/r", "adlfs")])
def test_what_is_not_installed_is_named(url: str, words: str) -> None:
    with pytest.raises(ConfigError, match=rf"output_dir={url}: .*{words}.*; install that package, or give a directory"):
        storage(url)


def test_a_resume_on_another_machine_takes_the_newest(run_dir: Path, url: str, tmp_path: Path) -> None:
    for step in (1, 2):
        checkpoint(run_dir, step)
    model(run_dir, "exported")
    upload(run_dir, url)
    other = tmp_path / "other" / "run"
    other.mkdir(parents=True)
    with mirrored(other, url, resume=True, patience_s=PATIENCE_S, every_s=SOON_S):
        found = newest_complete(other)
        assert found is not None
        assert (found.manifest.step, found.passed_over) == (2, {})
        expected = {name: data for name, data in here(run_dir).items() if "step-00000001" not in name}
        assert here(other) == expected
        checkpoint(other, 3)
    names = {name.split("/")[1] for name in there(url) if name.startswith("checkpoints/")}
    assert names == {"step-00000002", "step-00000003"}
    assert newest_complete(run_dir) is not None
    upload(run_dir, url)  # the first machine again: what is newer there comes first
    found = newest_complete(run_dir)
    assert found is not None
    assert found.manifest.step == 3
    assert (run_dir / "metrics.jsonl").read_text() == (other / "metrics.jsonl").read_text()


@pytest.mark.parametrize("harm", ["cut", "gone", "incomplete"])
def test_a_checkpoint_that_is_damaged_there_is_passed_over(
    run_dir: Path, url: str, tmp_path: Path, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (1, 2):
        checkpoint(run_dir, step)
    upload(run_dir, url)
    fs, root = fsspec.url_to_fs(url)
    harmed = f"{root}/checkpoints/step-00000002/policy/layout.json"
    if harm == "cut":
        fs.pipe_file(harmed, b"")
    elif harm == "gone":
        fs.rm_file(harmed)
    else:
        fs.rm_file(f"{root}/checkpoints/step-00000002/{MANIFEST}")
    other = tmp_path / "other" / "run"
    other.mkdir(parents=True)
    Mirror(other, url).fetch()
    assert [path.name for path in (other / "checkpoints").iterdir()] == ["step-00000001"]
    assert ("step-00000002 is damaged" in caplog.text) == (harm != "incomplete")
    fs.pipe_file(f"{root}/checkpoints/step-00000001/policy/layout.json", b"")
    third = tmp_path / "third" / "run"
    third.mkdir(parents=True)
    with pytest.raises(
        RunError, match=r"no checkpoint can be resumed from:\n(.*\n)?.*step-00000001 is damaged: its files are"
    ):
        Mirror(third, url).fetch()
    assert here(third) == {}


def test_a_download_that_stands_still_is_given_up(
    run_dir: Path, memory_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint(run_dir, 1)
    upload(run_dir, memory_url)
    released = threading.Event()
    monkeypatch.setattr(MemoryFileSystem, "get_file", lambda *_a, **_o: released.wait(PATIENCE_S))
    other = tmp_path / "other"
    other.mkdir()
    with (
        pytest.raises(
            DeadlineExceeded, match=r"downloading the newest checkpoint from memory://.*: nothing moved for 0\.3"
        ),
        mirrored(other, memory_url, resume=True, patience_s=0.3),
    ):
        pytest.fail("began")
    released.set()


def test_a_download_that_fails_leaves_nothing(
    run_dir: Path, memory_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint(run_dir, 1)
    upload(run_dir, memory_url)

    def full(self: MemoryFileSystem, remote: str, local: str, **options: Any) -> None:
        Path(local).write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(MemoryFileSystem, "get_file", full)
    other = tmp_path / "other"
    other.mkdir()
    with (
        pytest.raises(RunFailed, match=rf"{other}: no room left to write it: .* set work_dir to another disk"),
        mirrored(other, memory_url, resume=True, patience_s=PATIENCE_S),
    ):
        pytest.fail("began")
    assert here(other) == {}


def test_a_run_does_not_start_over_anothers_checkpoints(run_dir: Path, url: str, tmp_path: Path) -> None:
    checkpoint(run_dir, 1)
    upload(run_dir, url)
    before = there(url)
    with (
        pytest.raises(RunError, match=f"{url}: there are checkpoints of an earlier run, up to step 1: --resume"),
        mirrored(tmp_path, url, resume=False, patience_s=PATIENCE_S),
    ):
        pytest.fail("began")
    assert there(url) == before


def test_a_run_that_a_resume_takes_back_leaves_no_later_step(run_dir: Path, url: str) -> None:
    for step in (1, 2):
        checkpoint(run_dir, step, keep=5)
    upload(run_dir, url)
    (run_dir / "checkpoints" / "step-00000002").rename(run_dir / "checkpoints" / "damaged-step-00000002")
    mirror = Mirror(run_dir, url)
    mirror.bring()
    assert mirror.newest() == 1
