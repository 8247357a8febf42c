"""Nobody resumes from half a checkpoint."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from mmrlhf_ray.training.checkpoint import (
    MANIFEST,
    Manifest,
    discard,
    newest_complete,
    publish,
    stage,
    staging_path,
)


def manifest(step: int) -> Manifest:
    return Manifest(
        step=step,
        policy_version=step,
        seed=7,
        ranks={"policy": 2},
        driver={"kl": {"kl_coef": 0.05, "kl_target": None}},
    )


def write(run_dir: Path, step: int, keep: int = 2) -> Path:
    staged = stage(run_dir, step)
    (staged / "policy").mkdir()
    (staged / "policy" / "weights").write_bytes(bytes([step]) * 100)
    (staged / "state").write_text(f"step {step}")
    return publish(staged, manifest(step), keep)


def steps(run_dir: Path) -> list[str]:
    return sorted(p.name for p in (run_dir / "checkpoints").iterdir())


def newest(run_dir: Path) -> int | None:
    found = newest_complete(run_dir)
    return found[1].step if found else None


def test_what_is_published_comes_back(tmp_path: Path) -> None:
    path = write(tmp_path, 3)
    found = newest_complete(tmp_path)
    assert found is not None
    assert found[0] == path
    assert found[1].model_copy(update={"files": {}}) == manifest(3)
    assert set(found[1].files) == {"policy/weights", "state"}


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
    staged = stage(tmp_path, 2)
    (staged / "weights").write_bytes(b"half")
    assert newest(tmp_path) == 1
    assert staged == staging_path(tmp_path, 2)
    # Staging again starts empty.
    assert list(stage(tmp_path, 2).iterdir()) == []


@pytest.mark.parametrize("harm", ["changed", "cut", "missing", "no manifest", "cut manifest", "foreign manifest"])
def test_a_harmed_checkpoint_is_passed_over(tmp_path: Path, harm: str) -> None:
    write(tmp_path, 1)
    path = write(tmp_path, 2)
    weights, described = path / "policy" / "weights", path / MANIFEST
    if harm == "changed":
        weights.write_bytes(b"\x02" * 99 + b"\x03")
    elif harm == "cut":
        weights.write_bytes(b"\x02" * 99)
    elif harm == "missing":
        weights.unlink()
    elif harm == "no manifest":
        described.unlink()
    elif harm == "cut manifest":
        described.write_text(described.read_text()[:-20])
    else:
        described.write_text("{}")
    assert newest(tmp_path) == 1


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
    staged = stage(tmp_path, 1)
    (staged / "other").write_text("other")
    publish(staged, manifest(1), 2)
    found = newest_complete(tmp_path)
    assert found is not None
    assert set(found[1].files) == {"other"}


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
