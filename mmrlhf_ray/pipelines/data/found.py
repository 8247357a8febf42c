"""Counts made while a data set is checked."""

import json
from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mmrlhf_ray.data.errors import BadRow
from mmrlhf_ray.data.formats.chat import TAG
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
    extras: Counter[str] = field(default_factory=Counter)
    """Good rows that have each key among their extras."""
    unshown_tags: int = 0
    """Good rows with <image>, <audio> or <video> in a text that show no such medium."""
    tokens: dict[str, "array[int]"] = field(default_factory=dict)
    """Of each good row, by part: text and media, which make the prompt, and each answer."""
    too_long: int = 0
    memory_at_mark: int = 0
    """Resident bytes, decoding processes counted, when a fifth of the rows was done."""
    memory_at_end: int = 0
    seconds: float = 0.0


def note_rest(record: Mapping[str, Any], found: Found) -> None:
    """Count what a good row holds besides its record, and tags that stand for no medium."""
    found.extras.update(json.loads(record["extras"]).keys())
    messages = record["messages"]
    tags = set(TAG.findall(messages)) if "<" in messages else set()
    found.unshown_tags += any(f'{{"type": "{kind}"}}' not in messages for kind in tags)


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
