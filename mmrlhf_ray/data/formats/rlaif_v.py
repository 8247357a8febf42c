"""RLAIF-V and RLHF-V: one question about one image, a chosen and a rejected answer."""

from dataclasses import dataclass
from typing import Any

from mmrlhf_ray.data.errors import RowError
from mmrlhf_ray.data.formats.base import (
    Embedding,
    Kind,
    MediaNames,
    Row,
    plain_row,
    raw_row,
    refuse,
    require,
)
from mmrlhf_ray.data.formats.chat import media_lists, one_question, written_media
from mmrlhf_ray.data.validate import parse_json, text

_ASKED = ("question", "chosen", "rejected")
_KEYS = (*_ASKED, "image")


@dataclass(frozen=True)
class RlaifV:
    name: str = "rlaif_v"
    reads: frozenset[Kind] = frozenset({"PROMPT", "PREFERENCE"})
    writes: frozenset[Kind] = frozenset({"PREFERENCE"})
    embeds: Embedding = "feature"
    parquet: bool = True
    objects: frozenset[str] = frozenset()

    keys: frozenset[str] = frozenset((*_KEYS, "text"))
    one_or_several: frozenset[str] = frozenset()

    def matches(self, row: Row) -> bool:
        texts = not isinstance(row.get("chosen"), list)  # two conversations next to a question are TRL's
        return (row.keys() >= set(_ASKED) and texts) or ("image" in row and _is_packed(row))

    def read(self, row: Row, kind: Kind) -> dict[str, Any]:
        row = _unpacked(row)
        require(row, _ASKED, self.name)
        lists = media_lists({"image": row.get("image")}, {"image": "images"})
        question, chosen, rejected = (text(row[key], key) for key in _ASKED)
        return raw_row(row, _KEYS, prompt=question, chosen=chosen, rejected=rejected, **lists)

    def write(self, record: Row, kind: Kind, media_names: MediaNames) -> dict[str, Any]:
        refuse(record["margin"] != 0, f"margin {record['margin']:g}", self.name)
        lists = written_media(record, media_names)
        images = lists.pop("images", [])
        refuse(bool(lists) or len(images) > 1, "media other than one image", self.name)
        return {
            "question": one_question(record, self.name),
            "chosen": record["chosen"],
            "rejected": record["rejected"],
            **({"image": images[0]} if images else {}),
            **plain_row(record, (*_KEYS, "text")),
        }


def _unpacked(row: Row) -> Row:
    """RLHF-V keeps question, chosen and rejected as JSON in `text`."""
    if not _is_packed(row):
        return row
    inner = parse_json(row["text"], "text")
    if not isinstance(inner, dict) or set(inner) != set(_ASKED):
        raise RowError("text is no JSON with question, chosen and rejected", "name another format")
    return {key: value for key, value in row.items() if key != "text"} | inner


def _is_packed(row: Row) -> bool:
    packed = row.get("text")
    return "question" not in row and isinstance(packed, str) and packed.lstrip().startswith("{")
