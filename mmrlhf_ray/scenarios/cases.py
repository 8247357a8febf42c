"""What a recipe reads from a public data set: cases, and how they become the records of a job."""

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from mmrlhf_ray.data.media import MediaRow
from mmrlhf_ray.data.records.readers import write_records
from mmrlhf_ray.errors import DataError
from mmrlhf_ray.schema import MEDIA, PROMPT, modality_of

PARTS = ("train", "heldout")
_HELD_OUT_OF = 4
"""One source in four is held out."""


@dataclass(frozen=True)
class Case:
    """Something to decide about."""

    name: str
    source: str
    """Whom or what it is of: a patient, a drive, a film. No source is in both parts."""
    text: str
    """What is said beside the media."""
    media: tuple[MediaRow, ...]
    answer: str
    """The right decision."""
    group: str
    """Of those who might fare worse."""
    task: str = ""
    """Of the job's tasks; empty = the one that has the recipe's name."""
    more: Mapping[str, object] = field(default_factory=dict)
    """Further keys of the record's `extras`."""

    @property
    def part(self) -> str:
        """`train` or `heldout`, by the source's name alone, so that more data move nobody from one to the other."""
        return PARTS[zlib.crc32(self.source.encode()) % _HELD_OUT_OF == 0]


def write_cases(out: Path, scenario: str, cases: Sequence[Case]) -> None:
    """Write the data directories `train` and `heldout`. Raises DataError where one would be empty."""
    for part in PARTS:
        chosen = [case for case in cases if case.part == part]
        if not chosen:
            raise DataError(
                f"{len(cases)} cases of {len({case.source for case in cases})} sources leave none for {part!r}, as a "
                "source is never in both; give more of them"
            )
        records = pa.Table.from_pylist([_record(scenario, case) for case in chosen], schema=PROMPT)
        media = {medium["media_id"]: medium for case in chosen for medium in case.media}
        write_records(out / part, records, pa.Table.from_pylist(list(media.values()), schema=MEDIA))


def _record(scenario: str, case: Case) -> dict[str, Any]:
    kinds = [medium["kind"] for medium in case.media]
    content = [*({"type": kind} for kind in kinds), {"type": "text", "text": case.text}]
    return {
        "prompt_id": case.name,
        "messages": json.dumps([{"role": "user", "content": content}]),
        "media_ids": [medium["media_id"] for medium in case.media],
        "task": case.task or scenario,
        "modality": modality_of(set(kinds)),
        "extras": json.dumps({"answer": case.answer, "group": case.group} | dict(case.more)),
    }
