"""Where a run keeps what its responses show: `<run>/media/<image | audio | video>/<media_id>.<type>`."""

from pathlib import Path

MEDIA_DIR = "media"


def media_path(run_dir: Path, media_id: str, mime: str) -> Path:
    """The file of a clip. media_id: the sha256 of its bytes, in hexadecimal."""
    kind, _, form = mime.partition("/")
    return run_dir / MEDIA_DIR / kind / f"{media_id}.{form}"


def kept_media(run_dir: Path) -> dict[str, int]:
    """media_id → bytes of each clip that is there."""
    return {file.stem: file.stat().st_size for file in (run_dir / MEDIA_DIR).glob("*/*.*") if file.name[0] != "."}


def find_media(run_dir: Path, media_id: str) -> tuple[Path, str] | None:
    """File and MIME type of a clip; None where it is not there."""
    found = next((run_dir / MEDIA_DIR).glob(f"*/{media_id}.*"), None) if media_id.isalnum() else None
    return None if found is None else (found, f"{found.parent.name}/{found.suffix[1:]}")
