"""The formats that other tools keep their data in: told apart, read and written."""

from mmrlhf_ray.data.formats.base import KINDS, Format, Kind, kind_of
from mmrlhf_ray.data.formats.detect import FORMATS, as_raw_row, as_written_row, format_named, format_of

__all__ = ["KINDS", "Kind", "Format", "FORMATS", "format_of", "format_named", "as_raw_row", "as_written_row", "kind_of"]
