"""Which format rows are in."""

import json
from collections.abc import Sequence
from typing import Any

from mmrlhf_ray.data.errors import RowError
from mmrlhf_ray.data.formats.align_anything import AlignAnything
from mmrlhf_ray.data.formats.base import KINDS, Format, Kind, MediaNames, Row
from mmrlhf_ray.data.formats.llamafactory import LlamaFactory
from mmrlhf_ray.data.formats.llava import Llava
from mmrlhf_ray.data.formats.mmrlhf import Mmrlhf
from mmrlhf_ray.data.formats.ms_swift import MsSwift
from mmrlhf_ray.data.formats.openai_chat import OpenAIChat
from mmrlhf_ray.data.formats.rlaif_v import RlaifV
from mmrlhf_ray.data.formats.trl import Trl
from mmrlhf_ray.data.formats.ultrafeedback import UltraFeedback
from mmrlhf_ray.data.formats.verl import Verl
from mmrlhf_ray.data.validate import MEDIA_LISTS, build_record, conversation
from mmrlhf_ray.errors import DataError
from mmrlhf_ray.schema import TABLES

FORMATS: tuple[Format, ...] = (
    Mmrlhf(),
    Trl(),
    MsSwift(),
    LlamaFactory(),
    OpenAIChat(),
    Llava(),
    RlaifV(),
    AlignAnything(),
    AlignAnything(name="align_anything_safer", verdicts=("safer_response_id",)),
    UltraFeedback(),
    Verl(),
)
"""Every format. Where several read some rows alike, the first of them is told."""

_BY_NAME = {form.name: form for form in FORMATS}

_Reading = tuple[Any, ...] | None
"""A row as a record of one kind; None where it cannot be read as one."""


def format_named(name: str) -> Format:
    """The format of that name. Raises DataError naming those that there are."""
    if name not in _BY_NAME:
        raise DataError(f"format {name!r} is unknown; expected one of {', '.join(_BY_NAME)}")
    return _BY_NAME[name]


def format_of(rows: Sequence[Row]) -> Format:
    """The format of the first rows of a data set; rows that fit none are passed over, and fail when they are read.

    Several formats may fit: then it is one that reads every row as all the others do, and perhaps more. Raises
    DataError naming the candidates where there is no such format, or none fits.
    """
    rows = [_without_nulls(row) for row in rows]
    told = [(row, fitting) for row in rows if (fitting := [form for form in FORMATS if form.matches(row)])]
    if not told:
        keys = ", ".join(sorted({key for row in rows for key in row})) or "none"
        raise DataError(f"no format fits the rows, whose keys are {keys}; known formats: {', '.join(_BY_NAME)}")
    candidates = [form for form in FORMATS if all(form in fitting for _, fitting in told)]
    readings = {form.name: [_reading(form, row, kind) for row, _ in told for kind in KINDS] for form in candidates}
    for form in candidates:
        if all(_covers(readings[form.name], readings[other.name]) for other in candidates):
            return form
    names = [form.name for form in FORMATS if any(form in fitting for _, fitting in told)]
    why = "read the rows differently" if candidates else "fit some of the rows each"
    raise DataError(f"the formats {', '.join(names)} {why}; say which it is with data.format or --format")


def as_raw_row(row: Row, form: Format, kind: Kind) -> dict[str, Any]:
    """One row of a data set as a raw row (docs/data.md) for a record of `kind`; null is absent. Raises RowError."""
    if kind not in form.reads:
        raise RowError(f"{form.name} rows hold no {kind.lower()}s", "choose another format, or another job")
    return form.read(_without_nulls(row), kind)


def as_written_row(record: Row, form: Format, kind: Kind, media_names: MediaNames) -> dict[str, Any]:
    """A row of `form` for a record of `kind`'s table. Raises RowError for what the format cannot express."""
    if kind not in form.writes:
        raise RowError(f"{form.name} cannot express {kind.lower()}s", "choose another format (docs/data.md)")
    return form.write(record, kind, media_names)


def _without_nulls(row: Row) -> dict[str, Any]:
    return {key: value for key, value in row.items() if value is not None}


def _covers(mine: Sequence[_Reading], others: Sequence[_Reading]) -> bool:
    return all(other is None or one == other for one, other in zip(mine, others, strict=True))


def _reading(form: Format, row: Row, kind: Kind) -> _Reading:
    try:
        raw = as_raw_row(row, form, kind)
        messages, parts = conversation(raw)
        record = build_record(raw, TABLES[kind], messages, [])
    except RowError:
        return None
    lists = {media: raw.get(key) or [] for media, key in MEDIA_LISTS.items()}
    for media, listed in lists.items():
        unnamed = sum(part.kind == media and part.path is None for part in parts)
        if not isinstance(listed, list) or len(listed) != unnamed:
            return None
    # Extras are compared as objects; a name made of the content depends on the order of their keys.
    record |= {"extras": json.loads(record["extras"]), "prompt_id": raw.get("prompt_id")}
    return (record, parts, lists)
