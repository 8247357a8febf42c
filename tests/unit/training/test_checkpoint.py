"""Nobody resumes from half a checkpoint."""

import hashlib
import json
import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from mmrlhf_ray.config.base import CheckpointConfig
from mmrlhf_ray.errors import ConfigError, RunError, RunFailed
from mmrlhf_ray.training.checkpoint import (
    MANIFEST,
    Manifest,
    SaveClock,
    best_complete,
    discard,
    is_best,
    newest_complete,
    publish,
    sealed,
    set_aside,
    stage,
    staged,
    staging_path,
)


def manifest(step: int, quality: float | None = None) -> Manifest:
    return Manifest(
        step=step,
        quality=quality,
        policy_version=step,
        seed=7,
        ranks={"policy": 2},
        driver={"kl": {"kl_coef": 0.05, "kl_target": None}},
    )


def write(run_dir: Path, step: int, keep: int = 2, quality: float | None = None) -> Path:
    path = stage(run_dir, step)
    (path / "policy").mkdir()
    (path / "policy" / "weights").write_bytes(bytes([step]) * 100)
    (path / "state").write_text(f"step {step}")
    return publish(path, manifest(step, quality), keep)


def steps(run_dir: Path) -> list[str]:
    return sorted(p.name for p in (run_dir / "checkpoints").iterdir())


def newest(run_dir: Path) -> int | None:
    found = newest_complete(run_dir)
    return found.manifest.step if found else None


def test_what_is_published_comes_back(tmp_path: Path) -> None:
    path = write(tmp_path, 3)
    found = newest_complete(tmp_path)
    assert found is not None
    assert found.path == path
    assert found.manifest.model_copy(update={"files": {}}) == manifest(3)
    assert set(found.manifest.files) == {"policy/weights", "state"}
    assert not found.passed_over


def test_all_of_it_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, before, after = os.fsync, set[str](), set[str]()
    final = tmp_path / "checkpoints" / "step-00000003"

    def fsync(handle: int) -> None:
        (after if final.exists() else before).add(os.readlink(f"/proc/self/fd/{handle}"))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    path = write(tmp_path, 3)
    partial = str(staging_path(tmp_path, 3))
    assert before == {partial, *(str(p).replace(str(path), partial) for p in path.rglob("*"))}
    assert after == {str(path.parent)}


def test_what_a_rank_has_hashed_is_neither_read_nor_synced_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = stage(tmp_path, 3)
    (path / "policy").mkdir()
    (path / "policy" / "weights").write_bytes(b"weights")
    (path / "state").write_text("step 3")
    files = {"policy/weights": sealed(path / "policy" / "weights")}
    assert files["policy/weights"] == hashlib.sha256(b"weights").hexdigest()
    opened = set[str]()
    real = os.fsync

    def fsync(handle: int) -> None:
        opened.add(Path(os.readlink(f"/proc/self/fd/{handle}")).name)
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr("mmrlhf_ray.training.checkpoint._sha256", lambda file: f"of {file.name}")
    published = publish(path, manifest(3).model_copy(update={"files": files}), 2)
    assert opened == {"state", MANIFEST, "policy", path.name, "checkpoints"}
    described = Manifest.model_validate_json((published / MANIFEST).read_bytes())
    assert described.files == files | {"state": "of state"}


def test_a_file_that_only_its_writer_sees_is_no_checkpoint(tmp_path: Path) -> None:
    with (
        pytest.raises(RunError, match=r"step-00000003.partial/policy/elsewhere: .* directory that every node sees"),
        staged(tmp_path, 3) as path,
    ):
        publish(path, manifest(3).model_copy(update={"files": {"policy/elsewhere": "0"}}), 2)
    assert steps(tmp_path) == []


def test_a_run_without_checkpoints_has_none(tmp_path: Path) -> None:
    assert newest_complete(tmp_path) is None
    stage(tmp_path, 1)
    assert newest_complete(tmp_path) is None


def test_the_newest_is_by_number(tmp_path: Path) -> None:
    for step in (9, 10, 100):
        write(tmp_path, step, keep=5)
    assert newest(tmp_path) == 100


def test_what_is_half_written_is_not_there(tmp_path: Path) -> None:
    write(tmp_path, 1)
    path = stage(tmp_path, 2)
    (path / "weights").write_bytes(b"half")
    assert newest(tmp_path) == 1
    assert path == staging_path(tmp_path, 2)
    # Staging again starts empty.
    assert list(stage(tmp_path, 2).iterdir()) == []


def harm_checkpoint(path: Path, harm: str) -> str:
    """Damage it; returns what must be said of it."""
    weights, described = path / "policy" / "weights", path / MANIFEST
    if harm == "changed":
        weights.write_bytes(weights.read_bytes()[:-1] + b"?")
        return f"{weights} is damaged"
    if harm == "cut":
        weights.write_bytes(weights.read_bytes()[:-1])
        return f"{weights} is damaged"
    if harm == "missing":
        weights.unlink()
        return f"{weights} is missing"
    if harm == "no manifest":
        described.unlink()
        return f"{described} is missing"
    described.write_text(described.read_text()[:-20] if harm == "cut manifest" else "{}")
    return f"{described} is damaged"


HARMS = ["changed", "cut", "missing", "no manifest", "cut manifest", "foreign manifest"]


@pytest.mark.parametrize("harm", HARMS)
def test_a_harmed_checkpoint_is_passed_over_and_named(tmp_path: Path, harm: str) -> None:
    write(tmp_path, 1)
    path = write(tmp_path, 2)
    said = harm_checkpoint(path, harm)
    found = newest_complete(tmp_path)
    assert found is not None
    assert found.manifest.step == 1
    assert list(found.passed_over) == [path]
    assert said in found.passed_over[path]


@pytest.mark.parametrize("harm", HARMS)
def test_where_all_are_harmed_each_is_named_and_none_is_touched(tmp_path: Path, harm: str) -> None:
    said = [harm_checkpoint(write(tmp_path, step), harm) for step in (1, 2)]
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(RunError) as refused:
        newest_complete(tmp_path)
    assert all(words in str(refused.value) for words in said)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_harmed_checkpoint_outlives_the_run_that_passed_it_over(tmp_path: Path) -> None:
    for step in (1, 2):
        write(tmp_path, step)
    harm_checkpoint(tmp_path / "checkpoints" / "step-00000002", "cut")
    kept = set_aside(tmp_path / "checkpoints" / "step-00000002")
    for step in (2, 3, 4):
        write(tmp_path, step, keep=1)
    assert steps(tmp_path) == ["damaged-step-00000002", "step-00000004"]
    assert (kept / "policy" / "weights").stat().st_size == 99
    harm_checkpoint(tmp_path / "checkpoints" / "step-00000004", "cut")
    (tmp_path / "checkpoints" / "step-00000004").rename(tmp_path / "checkpoints" / "step-00000002")
    assert set_aside(tmp_path / "checkpoints" / "step-00000002").name == "damaged-step-00000002-2"


def test_what_was_half_removed_or_half_written_goes_with_the_next_one(tmp_path: Path) -> None:
    write(tmp_path, 1)
    for left in (".step-00000007.partial", ".step-00000000.gone"):
        (tmp_path / "checkpoints" / left / "policy").mkdir(parents=True)
    (tmp_path / ".checkpoints.gone").mkdir()
    write(tmp_path, 2)
    assert steps(tmp_path) == ["step-00000001", "step-00000002"]
    assert not (tmp_path / ".checkpoints.gone").exists()


def test_what_is_being_removed_is_no_longer_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process may end in the middle of it."""
    write(tmp_path, 1)

    def ended(path: Path, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("mmrlhf_ray.training.checkpoint.shutil.rmtree", ended)
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path, 2, keep=1)
    assert newest(tmp_path) == 2
    assert [name for name in steps(tmp_path) if name.startswith("step-")] == ["step-00000002"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        OSError(122, "Disk quota exceeded"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 11648 vs 11540"),
        ValueError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_named_and_nothing_is_left(tmp_path: Path, error: Exception) -> None:
    def write_half() -> None:
        with staged(tmp_path, 2) as path:
            (path / "weights").write_bytes(b"half")
            raise error

    write(tmp_path, 1)
    with pytest.raises(RunFailed, match=r"\.step-00000002\.partial: no room .* disk at /.* MiB free") as refused:
        write_half()
    assert refused.value.__cause__ is error
    assert steps(tmp_path) == ["step-00000001"]


def test_another_error_stays_what_it_is_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="^its own$"), staged(tmp_path, 2):
        raise ValueError("its own")
    assert steps(tmp_path) == []


def test_older_ones_go(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        write(tmp_path, step, keep=2)
    assert steps(tmp_path) == ["step-00000002", "step-00000003"]
    write(tmp_path, 4, keep=1)
    assert steps(tmp_path) == ["step-00000004"]


@pytest.mark.parametrize("keep", [1, 2])
def test_later_ones_of_an_abandoned_past_go_first(tmp_path: Path, keep: int) -> None:
    """Resumed from step 2, since 4 and 5 were harmed: what is written next must not be what is thrown away."""
    for step in (2, 4, 5):
        write(tmp_path, step, keep=5)
    assert write(tmp_path, 3, keep=keep).is_dir()
    assert steps(tmp_path) == ["step-00000002", "step-00000003"][-keep:]
    assert newest(tmp_path) == 3


def test_publishing_a_step_again_replaces_it(tmp_path: Path) -> None:
    write(tmp_path, 1)
    path = stage(tmp_path, 1)
    (path / "other").write_text("other")
    publish(path, manifest(1), 2)
    found = newest_complete(tmp_path)
    assert found is not None
    assert set(found.manifest.files) == {"other"}


def test_discarding_forgets_all(tmp_path: Path) -> None:
    write(tmp_path, 1)
    discard(tmp_path)
    assert newest_complete(tmp_path) is None
    discard(tmp_path)


def test_a_manifest_is_closed() -> None:
    with pytest.raises(ValidationError):
        Manifest.model_validate(manifest(1).model_dump() | {"surprise": 1})


def test_a_checkpoint_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    described = write(tmp_path, 1) / MANIFEST
    described.write_text(json.dumps(json.loads(described.read_text()) | {"prompt_cursor": 4}))
    assert newest(tmp_path) == 1


def test_a_checkpoint_is_late_so_many_seconds_after_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("mmrlhf_ray.training.checkpoint.time.monotonic", lambda: now[0])
    clock, without = SaveClock(CheckpointConfig(every_seconds=30.0)), SaveClock(CheckpointConfig())

    def late(at: float) -> bool:
        now[0] = at
        return clock.late

    assert [late(at) for at in (110.0, 129.9, 130.0, 500.0)] == [False, False, True, True]
    clock.restart()
    assert [late(at) for at in (500.0, 529.9, 530.0)] == [False, False, True]
    assert not without.late


@pytest.mark.parametrize("seconds", [0, -1.0])
def test_seconds_that_never_pass_are_refused(seconds: float) -> None:
    with pytest.raises(ValidationError, match="every_seconds"):
        CheckpointConfig(every_seconds=seconds)


def test_the_best_checkpoint_stays_next_to_the_newest(tmp_path: Path) -> None:
    assert is_best(tmp_path, 0.1)
    for step, quality in ((1, 0.1), (2, 0.9), (3, None), (4, 0.4), (5, 0.9), (6, None)):
        write(tmp_path, step, keep=2, quality=quality)
    assert steps(tmp_path) == ["step-00000002", "step-00000005", "step-00000006"], "the first of two equal ones"
    assert best_complete(tmp_path).manifest.step == 2
    assert [is_best(tmp_path, quality) for quality in (0.9, 0.91, None, float("nan"))] == [False, True, False, False]
    write(tmp_path, 7, quality=1.0)
    assert steps(tmp_path) == ["step-00000006", "step-00000007"]
    assert newest(tmp_path) == 7


def test_a_run_that_measured_nothing_has_no_best(tmp_path: Path) -> None:
    write(tmp_path, 1)
    with pytest.raises(RunError, match=r"no checkpoint says how good it is; the run needs checkpoint\.best"):
        best_complete(tmp_path)


def test_quality_is_more_where_less_is_better() -> None:
    measured = {"loss": 3.0, "eval_loss": 0.5, "eval_score": 2.0}
    assert CheckpointConfig(best="-eval_loss").quality(measured) == -0.5
    assert CheckpointConfig(best="eval_score").quality(measured) == 2.0
    assert CheckpointConfig(best="eval_score").quality({"loss": 3.0}) is None, "the step was not evaluated"
    assert CheckpointConfig().quality(measured) is None
    with pytest.raises(ConfigError, match=r"best=eval_gold: the evaluation has no such figure; it has eval_loss, eval"):
        CheckpointConfig(best="eval_gold").quality(measured)
