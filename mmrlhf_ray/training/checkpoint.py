"""Checkpoints on disk: written aside, published by one rename, trusted only when every file matches its hash."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

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
    """Learner group → ranks that wrote it; the same number must read it."""
    driver: dict[str, Any] = {}
    """The driver's state between steps, e.g. the KL controller."""
    files: dict[str, str] = {}
    """Relative path → sha256."""

    @model_validator(mode="before")
    @classmethod
    def _as_now(cls, values: Any) -> Any:
        """Manifests of earlier versions have a `prompt_cursor`, which is no longer read."""
        return {k: v for k, v in values.items() if k != "prompt_cursor"} if isinstance(values, dict) else values


def staging_path(run_dir: Path, step: int) -> Path:
    """Where a checkpoint is written before it is published."""
    return run_dir / _DIRECTORY / f".step-{step:08d}.partial"


def stage(run_dir: Path, step: int) -> Path:
    """An empty directory to write a checkpoint into; no run resumes from it yet."""
    path = staging_path(run_dir, step)
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def publish(staged: Path, manifest: Manifest, keep: int) -> Path:
    """Hash the files, write the manifest, rename. Only the newest `keep` checkpoints stay."""
    files = {str(f.relative_to(staged)): _sha256(f) for f in sorted(staged.rglob("*")) if f.is_file()}
    (staged / MANIFEST).write_text(manifest.model_copy(update={"files": files}).model_dump_json(indent=2))
    final = staged.with_name(f"step-{manifest.step:08d}")
    shutil.rmtree(final, ignore_errors=True)
    staged.rename(final)
    published = _published(final.parent)
    # Later ones are of a past that this run has left, by resuming from an earlier checkpoint.
    kept = [path for path in published if path <= final][-keep:]
    for path in published:
        if path not in kept:
            shutil.rmtree(path)
    return final


def newest_complete(run_dir: Path) -> tuple[Path, Manifest] | None:
    """The newest checkpoint whose files all match their hashes, or None where there is none."""
    for path in reversed(_published(run_dir / _DIRECTORY)):
        manifest = _manifest(path)
        if manifest and _matches(path, manifest.files):
            return path, manifest
    return None


def discard(run_dir: Path) -> None:
    """Forget all checkpoints of a run that starts over."""
    shutil.rmtree(run_dir / _DIRECTORY, ignore_errors=True)


def _manifest(path: Path) -> Manifest | None:
    try:
        return Manifest.model_validate_json((path / MANIFEST).read_bytes())
    except ValidationError:  # cut off or changed, like any other file
        return None


def _matches(path: Path, files: dict[str, str]) -> bool:
    return all((path / name).is_file() and _sha256(path / name) == digest for name, digest in files.items())


def _published(directory: Path) -> list[Path]:
    return sorted(p for p in directory.glob("step-*") if (p / MANIFEST).is_file())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
