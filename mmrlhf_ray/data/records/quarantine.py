"""Bad rows: stop with an error, or set them aside where they can be fixed."""

import fcntl
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmrlhf_ray.data.errors import BadRow, bad_rows_error
from mmrlhf_ray.disk import writing
from mmrlhf_ray.errors import RunFailed

logger = logging.getLogger(__name__)

FILE_NAME = "quarantine.jsonl"
_LOCK = ".quarantine.lock"


@dataclass(frozen=True)
class Rejected:
    """A bad row with the record as it was read."""

    bad: BadRow
    original: Mapping[str, Any]


def settle(rejected: Sequence[Rejected], good: int, file: str, on_bad_row: str, quarantine_to: Path) -> None:
    """Deal with the bad rows of `file`, which also has `good` usable ones.

    `fail`: DataError if there is a bad row. `quarantine`: they go to `<quarantine_to>/quarantine.jsonl`, where a row
    that is there already is replaced; a warning is logged. DataError in both cases if no usable row is left.
    """
    total = good + len(rejected)
    if on_bad_row == "quarantine":
        if rejected:
            path = _write(quarantine_to, rejected)
            logger.warning("%s: %d of %d rows are bad and were set aside in %s", file, len(rejected), total, path)
        if good:
            return
        headline = f"{file}: no usable row among {total}"
    elif rejected:
        headline = f"{file}: {len(rejected)} of {total} rows cannot be used (on_bad_row: quarantine goes on without)"
    elif good:
        return
    else:
        headline = f"{file}: no rows; give at least one record"
    raise bad_rows_error([r.bad for r in rejected], headline)


def set_row_aside(rejected: Rejected, on_bad_row: str, quarantine_to: Path) -> None:
    """Deal with one bad row that turned up while rows were read: DataError, or a line in the quarantine."""
    if on_bad_row != "quarantine":
        file = rejected.bad.file
        raise bad_rows_error([rejected.bad], f"{file}: a row cannot be used (on_bad_row: quarantine goes on without)")
    path = _write(quarantine_to, [rejected])
    logger.warning("%s (set aside in %s)", rejected.bad, path)


def forget(quarantine_to: Path, file: str) -> None:
    """Drop what an earlier reading of `file` set aside."""
    path = quarantine_to / FILE_NAME
    if path.exists():
        _replace(path, [entry for entry in _entries(path) if entry["file"] != file])


def _write(quarantine_to: Path, rejected: Sequence[Rejected]) -> Path:
    path = quarantine_to / FILE_NAME
    quarantine_to.mkdir(parents=True, exist_ok=True)
    fresh = [_entry(r) for r in rejected]
    replaced = {(entry["file"], entry["row"]) for entry in fresh}
    with (quarantine_to / _LOCK).open("w") as lock:  # several workers may read one stream
        fcntl.flock(lock, fcntl.LOCK_EX)
        kept = [e for e in _entries(path) if (e["file"], e["row"]) not in replaced] if path.exists() else []
        _replace(path, kept + fresh)
    return path


def as_json(rejected: Rejected) -> str:
    """A line of the quarantine."""
    # ASCII, so that a record with broken characters can be written down, too.
    return json.dumps(_entry(rejected), default=_describe)


def _entry(rejected: Rejected) -> dict[str, Any]:
    return asdict(rejected.bad) | {"record": rejected.original}


def _entries(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _replace(path: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    """Write through a temporary file, so that a reader sees the old file or the new one."""
    # ASCII, so that a record with broken characters can be written down, too.
    text = "".join(json.dumps(entry, default=_describe) + "\n" for entry in entries)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with writing(path):
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(path)
    except RunFailed:
        temporary.unlink(missing_ok=True)
        raise


def _describe(value: Any) -> str:
    return f"<{len(value)} bytes>" if isinstance(value, bytes) else str(value)
