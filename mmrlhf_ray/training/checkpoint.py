"""Checkpoints on disk: written aside, published by one rename, trusted only when every file matches its hash."""

import hashlib
import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from mmrlhf_ray.config.base import CheckpointConfig
from mmrlhf_ray.disk import writing
from mmrlhf_ray.errors import RunError

MANIFEST = "manifest.json"
_DIRECTORY = "checkpoints"


class Manifest(BaseModel):
    """The contents of a checkpoint. Randomness is a function of `seed` and position, so they fix every stream."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: int
    """Steps that are done; the next one has this number."""
    policy_version: int
    seed: int
    ranks: dict[str, int]
    """Learner group → ranks that wrote it."""
    run: dict[str, Any] = {}
    """The run that it is of: RunRecord (pipelines/resume.py). Empty in checkpoints of earlier versions."""
    finished: bool = False
    """`step` is the last one of the run as it was configured."""
    quality: float | None = None
    """As CheckpointConfig.quality() of the step before; None = not measured."""
    driver: dict[str, Any] = {}
    """The driver's state between steps, e.g. the KL controller."""
    files: dict[str, str] = {}
    """Relative path → sha256, of each by the process that wrote it."""

    @model_validator(mode="before")
    @classmethod
    def _as_now(cls, values: Any) -> Any:
        """Manifests of earlier versions have a `prompt_cursor`, which is no longer read."""
        return {k: v for k, v in values.items() if k != "prompt_cursor"} if isinstance(values, dict) else values


@dataclass(frozen=True)
class Complete:
    """A checkpoint whose files all match their hashes."""

    path: Path
    manifest: Manifest
    passed_over: Mapping[Path, str]
    """Newer ones → what is wrong with each."""


class SaveClock:
    """Says when `every_seconds` have passed since the last checkpoint, or since the clock was made."""

    def __init__(self, cfg: CheckpointConfig):
        self._seconds, self._since = cfg.every_seconds, time.monotonic()

    @property
    def late(self) -> bool:
        """Whether a checkpoint is due, whichever step it is."""
        return self._seconds is not None and time.monotonic() - self._since >= self._seconds

    def restart(self) -> None:
        """A checkpoint was made."""
        self._since = time.monotonic()


def staging_path(run_dir: Path, step: int) -> Path:
    """Where a checkpoint is written before it is published."""
    return run_dir / _DIRECTORY / f".step-{step:08d}.partial"


def scratch_path(directory: Path) -> Path:
    """Where something can be made of a learner group's files in `directory` until they are loaded: beside the
    checkpoint, which stays as it is. Remains go with the next one that is written."""
    checkpoint = directory.parent
    return checkpoint.with_name(f".{checkpoint.name}-{directory.name}.partial")


def stage(run_dir: Path, step: int) -> Path:
    """An empty directory to write a checkpoint into; no run resumes from it yet. Remains of others are removed."""
    sweep(run_dir)
    path = staging_path(run_dir, step)
    path.mkdir(parents=True)
    return path


@contextmanager
def staged(run_dir: Path, step: int) -> Iterator[Path]:
    """stage() for a block as in finishing()."""
    path = stage(run_dir, step)
    with finishing(path):
        yield path


@contextmanager
def finishing(path: Path) -> Iterator[None]:
    """For a block that writes what is to come into a staged directory and publishes it. A block that fails leaves
    nothing behind; RunFailed says where there was no room."""
    try:
        with writing(path):
            yield
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise


def sealed(path: Path) -> str:
    """sha256 of a file that was written, for the manifest; the file is on the disk when this returns. For its writer:
    nobody else needs to read it then."""
    digest = _sha256(path)
    _sync(path)
    return digest


def publish(staged: Path, manifest: Manifest, keep: int) -> Path:
    """Hash the files that `manifest.files` does not have, write the manifest, rename; each is on the disk before the
    next, so that a power cut cannot leave a checkpoint by its name alone. Only the newest `keep` checkpoints stay, and
    the one of the best quality.

    Files in `manifest.files` were sealed() by who wrote them. Raises RunError where one of them is not to be seen here.
    """
    there = {str(f.relative_to(staged)) for f in staged.rglob("*") if f.is_file()}
    if unseen := sorted(manifest.files.keys() - there):
        raise RunError(
            f"{staged / unseen[0]}: written by a rank, but not there for the one that publishes the checkpoint; "
            "output_dir must be a directory that every node sees"
        )
    files = manifest.files | {name: sealed(staged / name) for name in sorted(there - manifest.files.keys())}
    (staged / MANIFEST).write_text(manifest.model_copy(update={"files": files}).model_dump_json(indent=2))
    for path in (staged / MANIFEST, *(p for p in staged.rglob("*") if p.is_dir()), staged):
        _sync(path)
    final = staged.with_name(f"step-{manifest.step:08d}")
    _remove(final)
    staged.rename(final)
    _sync(final.parent)
    published = sorted(p for p in _steps(final.parent) if (p / MANIFEST).is_file())
    # Later ones are of a past that this run has left, by resuming from an earlier checkpoint.
    past = [path for path in published if path <= final]
    kept = {*past[-keep:], _best(past)}
    for path in published:
        if path not in kept:
            _remove(path)
    return final


def _best(published: Sequence[Path]) -> Path | None:
    """The first one of the best quality, its files unread; None where none was measured."""
    manifests = ((path, _manifest(path)) for path in published)
    found = {path: own.quality for path, own in manifests if isinstance(own, Manifest) and own.quality is not None}
    return max(found, key=found.__getitem__, default=None)


def is_best(run_dir: Path, quality: float | None) -> bool:
    """Whether a step of this quality is better than every checkpoint there is."""
    if quality is None or math.isnan(quality):
        return False
    best = _best(_steps(run_dir / _DIRECTORY))
    before = None if best is None else _manifest(best)
    return not isinstance(before, Manifest) or before.quality is None or quality > before.quality


def best_complete(run_dir: Path) -> Complete:
    """The checkpoint of the best quality. Raises RunError where none was measured, or a file of it is damaged."""
    best = _best(_steps(run_dir / _DIRECTORY))
    if best is None:
        raise RunError(f"{run_dir}: no checkpoint says how good it is; the run needs checkpoint.best and evaluations")
    return complete_at(best)


def newest_complete(run_dir: Path) -> Complete | None:
    """The newest checkpoint whose files all match their hashes; None where there are no checkpoints.

    Raises RunError where there are and each is damaged, with what is wrong. Nothing is changed.
    """
    damaged: dict[Path, str] = {}
    for path in reversed(_steps(run_dir / _DIRECTORY)):
        found = _checked(path)
        if isinstance(found, Manifest):
            return Complete(path, found, damaged)
        damaged[path] = found
    if not damaged:
        return None
    raise RunError(
        "no checkpoint can be resumed from:\n  "
        + "\n  ".join(damaged.values())
        + f"\nNothing was changed. Restore the files, or run without --resume to start over, which discards "
        f"{run_dir / _DIRECTORY}"
    )


def complete_at(path: Path) -> Complete:
    """One checkpoint. Raises RunError where a file of it is not as it was written."""
    found = _checked(path)
    if isinstance(found, Manifest):
        return Complete(path, found, {})
    raise RunError(f"the checkpoint cannot be read: {found}; choose another one")


def _checked(path: Path) -> Manifest | str:
    """The manifest of a checkpoint whose files all match their hashes, or what is wrong with one."""
    found = _manifest(path)
    return found if isinstance(found, str) else _mismatch(path, found.files) or found


def set_aside(path: Path) -> Path:
    """Rename a damaged checkpoint, so that none takes its place and it is not looked at again. Returns its new path."""
    target, number = path.with_name(f"damaged-{path.name}"), 1
    while target.exists():
        number += 1
        target = path.with_name(f"damaged-{path.name}-{number}")
    return path.rename(target)


def newest_step(run_dir: Path) -> int | None:
    """Step of the newest checkpoint by its name, its files unread; None where there is none."""
    published = _steps(run_dir / _DIRECTORY)
    return int(published[-1].name.removeprefix("step-")) if published else None


def discard(run_dir: Path) -> None:
    """Forget all checkpoints of a run that starts over."""
    _remove(run_dir / _DIRECTORY)
    sweep(run_dir)


def sweep(run_dir: Path) -> None:
    """Remove the remains of writing and removing that was ended on the way."""
    for pattern in (f".{_DIRECTORY}.gone", f"{_DIRECTORY}/.*.gone", f"{_DIRECTORY}/.*.partial"):
        for path in run_dir.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)


def _remove(path: Path) -> None:
    """Renamed first: what is half removed must not look like a checkpoint."""
    if path.exists():
        gone = path.with_name(f".{path.name}.gone")
        shutil.rmtree(gone, ignore_errors=True)
        shutil.rmtree(path.rename(gone))


def _manifest(path: Path) -> Manifest | str:
    """The manifest, or what is wrong with it."""
    file = path / MANIFEST
    try:
        return Manifest.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return f"{file} is missing"
    except ValidationError:  # cut off or changed, like any other file
        return f"{file} is damaged: it is not the manifest of a checkpoint"


def _mismatch(path: Path, files: Mapping[str, str]) -> str | None:
    """The first file that is not as it was written."""
    for name, digest in files.items():
        if not (path / name).is_file():
            return f"{path / name} is missing"
        if _sha256(path / name) != digest:
            return f"{path / name} is damaged: its hash is not the manifest's"
    return None


def _steps(directory: Path) -> list[Path]:
    return sorted(path for path in directory.glob("step-*") if path.is_dir())


def _sync(path: Path) -> None:
    """Have a file's content, or a directory's entries, on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
