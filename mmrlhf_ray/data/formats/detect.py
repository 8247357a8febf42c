"""Which format rows are in."""

from collections.abc import Collection, Hashable, Iterable
from typing import Any

from mmrlhf_ray.data.errors import RowError
from mmrlhf_ray.data.formats.align_anything import AlignAnything
from mmrlhf_ray.data.formats.base import Format, Kind, MediaNames, Row
from mmrlhf_ray.data.formats.fits import Fits, shape_of
from mmrlhf_ray.data.formats.llamafactory import LlamaFactory
from mmrlhf_ray.data.formats.llava import Llava
from mmrlhf_ray.data.formats.manifests import Captions, Squad, Transcripts
from mmrlhf_ray.data.formats.mmrlhf import Mmrlhf
from mmrlhf_ray.data.formats.ms_swift import MsSwift
from mmrlhf_ray.data.formats.openai_chat import OpenAIChat
from mmrlhf_ray.data.formats.rlaif_v import RlaifV
from mmrlhf_ray.data.formats.trl import Trl
from mmrlhf_ray.data.formats.ultrafeedback import UltraFeedback
from mmrlhf_ray.data.formats.unread import with_prompt_parts
from mmrlhf_ray.data.formats.verl import Verl
from mmrlhf_ray.errors import DataError

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
    Captions(),
    Transcripts(),
    Squad(),
)
"""Every format. Where several read some rows alike, the first of them is told."""

_LOOKED_AT = 64
"""Rows that are looked at even where the keys of one format alone fit."""
_KEYS_SHOWN = 20
_KEY_CHARACTERS = 40

_BY_NAME = {form.name: form for form in FORMATS}


def format_named(name: str) -> Format:
    """The format of that name. Raises DataError naming those that there are."""
    if name not in _BY_NAME:
        raise DataError(f"format {name!r} is unknown; expected one of {', '.join(_BY_NAME)}")
    return _BY_NAME[name]


def format_of(rows: Iterable[Row]) -> Format:
    """tell() of rows that are numbered from 0."""
    return tell((f"row {number}", row) for number, row in enumerate(rows))


def tell(rows: Iterable[tuple[str, Row]]) -> Format:
    """The format of a data set, of which `rows` are all: (where it stands, for messages; the row).

    Rows that fit no format are passed over, and fail when they are read. Of several formats that fit, it is one that
    reads every row as all the others do, and perhaps more; where there are several such, the one that comes closest
    to reading those that none reads. Rows beyond the first ones are not looked at once a single format is left.
    Raises DataError naming the formats, and a row on which they differ, where there is none.
    """
    fits: Fits | None = None
    keys: dict[str, None] = {}
    shapes: set[Hashable] = set()
    for number, (place, row) in enumerate(rows):
        if fits is not None and len(fits.candidates) == 1 and number >= _LOOKED_AT:
            break
        row = _without_nulls(row)
        shape = shape_of(row)
        if shape in shapes:
            continue
        shapes.add(shape)
        if fitting := _fitting(row):
            fits = fits or Fits(place, fitting)
            fits.see(place, row, fitting)
        elif fits is None and len(keys) < _KEYS_SHOWN:
            keys |= dict.fromkeys(row)
    if fits is None:
        raise DataError(
            f"no format fits the rows, whose keys are {_listed(keys)}; known formats: {', '.join(_BY_NAME)}; "
            "data.columns (--columns) gives keys the names that a format has"
        )
    return fits.best()


def fitting_names(row: Row) -> list[str]:
    """The formats whose keys are those of the row."""
    return [form.name for form in _fitting(_without_nulls(row))]


def as_raw_row(row: Row, form: Format, kind: Kind) -> dict[str, Any]:
    """One row of a data set as a raw row (docs/data.md) for a record of `kind`; null is absent. Raises RowError."""
    if kind not in form.reads:
        raise RowError(f"{form.name} rows hold no {kind.lower()}s", "choose another format, or another job")
    row = _without_nulls(row)
    return with_prompt_parts(row, form.read(row, kind), form.keys, form.name)


def as_written_row(record: Row, form: Format, kind: Kind, media_names: MediaNames) -> dict[str, Any]:
    """A row of `form` for a record of `kind`'s table. Raises RowError for what the format cannot express."""
    if kind not in form.writes:
        raise RowError(f"{form.name} cannot express {kind.lower()}s", "choose another format (docs/data.md)")
    return form.write(record, kind, media_names)


def _without_nulls(row: Row) -> dict[str, Any]:
    return {key: value for key, value in row.items() if value is not None}


def _fitting(row: Row) -> list[Format]:
    if "media_ids" in row:  # only our own tables have that
        return [_BY_NAME["mmrlhf"]]
    return [form for form in FORMATS if form.matches(row)]


def _listed(keys: Collection[str]) -> str:
    shown = sorted(key[:_KEY_CHARACTERS] for key in list(keys)[:_KEYS_SHOWN])
    return ", ".join(shown) + (", …" if len(keys) > _KEYS_SHOWN else "") or "none"
