"""Counts made while a data set is checked."""

from array import array
from collections import Counter
from dataclasses import dataclass, field

from mmrlhf_ray.data.errors import BadRow
from mmrlhf_ray.data.records.store import LoadedRow
from mmrlhf_ray.pipelines.data.rows import short_hash


@dataclass
class MediaCount:
    """Media of one kind."""

    shown: int = 0
    """Places where rows show some."""
    unique: int = 0
    copies: int = 0
    """Further names of bytes that have one already."""


@dataclass
class Found:
    """Counts so far."""

    rows: int = 0
    bad: int = 0
    bad_kept: list[BadRow] = field(default_factory=list)
    """The first of them."""
    modality: Counter[str] = field(default_factory=Counter)
    task: Counter[str] = field(default_factory=Counter)
    media: dict[str, MediaCount] = field(default_factory=dict)
    tokens: dict[str, "array[int]"] = field(default_factory=dict)
    """Of each good row, by part: text and media, which make the prompt, and each answer."""
    too_long: int = 0
    memory_at_mark: int = 0
    """Resident bytes, decoding processes counted, when a fifth of the rows was done."""
    memory_at_end: int = 0
    seconds: float = 0.0


class Names:
    """Which media were seen, and under which names, in 64 bits each."""

    def __init__(self) -> None:
        self._media: set[int] = set()
        self._names: set[int] = set()

    def count(self, row: LoadedRow, found: Found) -> None:
        for shown in row.read.shown:
            of_kind = found.media.setdefault(shown.kind, MediaCount())
            of_kind.shown += 1
            media, name = short_hash(shown.media_id), short_hash(shown.media_id, shown.name)
            if media not in self._media:
                of_kind.unique += 1
            elif name not in self._names:
                of_kind.copies += 1
            self._media.add(media)
            self._names.add(name)
