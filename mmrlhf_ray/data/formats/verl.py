"""verl's Parquet rows: `data_source`, `prompt` as messages with tags, `reward_model` with the ground truth."""

import json
from collections.abc import Mapping
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
    require,
)
from mmrlhf_ray.data.formats.chat import (
    chat_of,
    lead_with_media,
    media_lists,
    record_chat,
    split_tags,
    tagged_text,
    written_media,
)

_LISTS = {"images": "image", "videos": "video", "audios": "audio"}
_KEYS = ("data_source", "prompt", "reward_model", *_LISTS)
_TRUTH = "ground_truth"


@dataclass(frozen=True)
class Verl:
    name: str = "verl"
    reads: frozenset[Kind] = frozenset({"PROMPT"})
    writes: frozenset[Kind] = frozenset({"PROMPT"})
    embeds: Embedding = "feature"
    parquet: bool = True
    objects: frozenset[str] = frozenset({"reward_model", "extra_info"})

    keys: frozenset[str] = frozenset(_KEYS)
    one_or_several: frozenset[str] = frozenset()

    def matches(self, row: Row) -> bool:
        return "data_source" in row and isinstance(row.get("prompt"), list)

    def read(self, row: Row, kind: Kind) -> dict[str, Any]:
        require(row, ("data_source", "prompt"), self.name)
        if not isinstance(row["data_source"], str):
            raise RowError("data_source is not text", "name the data set in data_source")
        lists = {key: [_reference(item, _LISTS[key]) for item in items] for key, items in media_lists(row).items()}
        messages = lead_with_media(split_tags(chat_of(row["prompt"], "prompt")), lists)
        others = _reward_extras(row.get("reward_model"))
        used = (*_KEYS, "task", "extra_info")
        others |= {key: _without_nulls(row[key]) for key in ("task", "extra_info") if key in row}
        return raw_row(row, used, messages=messages, task=row["data_source"], extras=others, **lists)

    def write(self, record: Row, kind: Kind, media_names: MediaNames) -> dict[str, Any]:
        messages = [{"role": m["role"], "content": tagged_text(m, self.name)} for m in record_chat(record)]
        extras = json.loads(record["extras"])
        reward = dict(extras["reward_model"]) if isinstance(extras.get("reward_model"), dict) else {}
        taken = ["reward_model"] if reward else []
        if _TRUTH in extras and _TRUTH not in reward:
            reward[_TRUTH] = extras[_TRUTH]
            taken.append(_TRUTH)
        return {
            "data_source": record["task"],
            "prompt": messages,
            **({"reward_model": reward} if reward else {}),
            **written_media(record, media_names),
            **plain_row(record, (*_KEYS, "task", _TRUTH), taken=taken),
        }


def _without_nulls(value: Any) -> Any:
    """The value without keys that are null, as Parquet fills them in, at any depth."""
    if isinstance(value, Mapping):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _reference(item: Any, kind: str) -> Any:
    """verl also takes {"type": "image", "image": reference}, as its vision utilities do. Raises RowError."""
    if not isinstance(item, Mapping) or item.get(kind) is None:
        return item
    others = {key for key, value in item.items() if value is not None} - {kind, "type"}
    if others or item.get("type", kind) not in (kind, None):
        came = ", ".join(sorted(map(str, others))) or f"type {item['type']!r}"
        raise RowError(f"a {kind} has {came}, which cannot be expressed", "data.video says how all clips are sampled")
    return item[kind]


def _reward_extras(value: Any) -> dict[str, Any]:
    """The ground truth as an extra of its own, where reward functions look for it; the rest stays together."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise RowError(f"reward_model is a {type(value).__name__}, expected an object", 'write {"ground_truth": …}')
    present = _without_nulls(value)
    rest = {key: item for key, item in present.items() if key != _TRUTH}
    truth = {_TRUTH: present[_TRUTH]} if _TRUTH in present else {}
    return truth | ({"reward_model": rest} if rest else {})
