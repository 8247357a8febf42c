"""Errors about records: what is wrong with which row, and what to do about it."""

from collections.abc import Sequence
from dataclasses import dataclass

from mmrlhf_ray.errors import DataError

_SHOWN = 5


class RowError(ValueError):
    """Why one row cannot be used. Caught where rows are read and turned into a BadRow."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}; {remedy}")
        self.reason = reason
        self.remedy = remedy


def printable(text: str) -> str:
    r"""`text` with \udfff for halves of characters, which rows may hold and no file or terminal takes."""
    return text.encode("utf-8", "backslashreplace").decode()


@dataclass(frozen=True)
class BadRow:
    """One row that cannot be used."""

    file: str
    row: int
    """Index from 0; blank lines of a .jsonl count."""
    record_id: str
    """prompt_id, or "" where the row has none."""
    reason: str
    remedy: str

    def __str__(self) -> str:
        place = place_of(self.file, self.row)
        record = f" ({self.record_id})" if self.record_id else ""
        return f"{self.file}, {place}{record}: {self.reason}; {self.remedy}"


def place_of(file: str, row: int) -> str:
    """Where a row stands in its file, for messages."""
    # Editors count the lines of a text file from 1.
    return f"line {row + 1}" if file.endswith((".jsonl", ".ndjson")) else f"row {row}"


def bad_rows_error(bad: Sequence[BadRow], headline: str, shown: int = _SHOWN) -> DataError:
    """The error for rows that cannot be used: `headline`, the first `shown` of them, and how many more there are."""
    lines = [headline, *(f"  {row}" for row in bad[:shown])]
    if len(bad) > shown:
        lines.append(f"  … and {len(bad) - shown} more")
    return DataError("\n".join(lines))
