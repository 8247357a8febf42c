"""What a record carries beside its messages."""

import json


def facts_of(extras: str, column: str | None) -> str:
    """The text of `extras[column]`, or "" where no column is configured. Raises KeyError where it is missing."""
    return "" if column is None else str(json.loads(extras)[column])
