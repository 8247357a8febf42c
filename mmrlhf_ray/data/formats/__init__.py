"""The formats that other tools keep their data in: told apart, read and written."""

from mmrlhf_ray.data.formats.base import KINDS, Format, Kind, kind_of
from mmrlhf_ray.data.formats.detect import (
    FORMATS,
    as_raw_row,
    as_written_row,
    fitting_names,
    format_named,
    format_of,
    tell,
)

__all__ = [
    "KINDS",
    "Kind",
    "Format",
    "FORMATS",
    "format_of",
    "tell",
    "format_named",
    "fitting_names",
    "as_raw_row",
    "as_written_row",
    "kind_of",
]
