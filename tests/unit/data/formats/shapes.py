"""Records of every shape that a format may or may not express."""

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from mmrlhf_ray.data.formats import Kind
from mmrlhf_ray.data.validate import MEDIA_LISTS, Shown, build_record, conversation
from mmrlhf_ray.schema import TABLES

Record = dict[str, Any]

TEXT = [{"role": "user", "content": "Which is larger, 3 or 5?"}]
IMAGE = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Which digit?"}]}]
PLACES = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "Is "},
            {"type": "image"},
            {"type": "text", "text": " like "},
            {"type": "image"},
            {"type": "text", "text": "?"},
        ],
    }
]
AUDIO = [{"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": "Which tone?"}]}]
VIDEO = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "Which way?"}]}]
BOTH = [{"role": "user", "content": [{"type": "image"}, {"type": "audio"}, {"type": "text", "text": "Same?"}]}]
TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Which digit?"}]},
    {"role": "assistant", "content": "Seven."},
    {"role": "user", "content": "Sure?"},
]
TAG = [{"role": "user", "content": "What does <image> mean in HTML?"}]
SILENT = [{"role": "user", "content": [{"type": "image"}]}]

MESSAGES = {
    "text": TEXT,
    "image": IMAGE,
    "places": PLACES,
    "audio": AUDIO,
    "video": VIDEO,
    "both": BOTH,
    "turns": TURNS,
    "tag": TAG,
    "silent": SILENT,
}
ANSWERS: dict[Kind, dict[str, Any]] = {
    "PROMPT": {},
    "DEMONSTRATION": {"response": "It is 7.\nReally."},
    "PREFERENCE": {"chosen": "7", "rejected": "1 <b>"},
    "RANKING": {"responses": ["7", "1", "9"], "aspects": {"correct": [5.0, 1.0, None], "detail": [2.5, 2.0, 1.0]}},
}
EXTRAS = {"truth": "7", "facts": {"digits": [7, 3], "sum": None}, "label": "seven", "idx": 4, "nothing": None}


def names(kinds: list[str], *, start: int = 0) -> list[str]:
    return [f"media/{number:02d}.{kind}" for number, kind in enumerate(kinds, start)]


def record(kind: Kind, shape: str, **columns: Any) -> Record:
    """A record whose media_ids are made from the names that it is written with."""
    raw = {"messages": MESSAGES[shape], "task": "digits", "prompt_id": "p-1", "extras": EXTRAS, **ANSWERS[kind]}
    raw |= columns
    messages, parts = conversation(raw)
    shown = [Shown(p.kind, f"id:{n}", n) for p, n in zip(parts, names([p.kind for p in parts]), strict=True)]
    return stored(build_record(raw, TABLES[kind], messages, shown), kind)


def media_names(of: Record) -> dict[str, str]:
    return {media_id: media_id.removeprefix("id:") for media_id in of["media_ids"]}


def read_back(raw: Mapping[str, Any], kind: Kind) -> Record:
    """The record of a raw row, as readers make it: parts take their own reference, or the next of their list."""
    messages, parts = conversation(raw)
    queues = {media: iter(raw.get(key) or []) for media, key in MEDIA_LISTS.items()}
    references = [(part.kind, part.path or next(queues[part.kind])) for part in parts]
    assert [list(queue) for queue in queues.values()] == [[], [], []]
    return stored(
        build_record(raw, TABLES[kind], messages, [Shown(media, f"id:{name}", name) for media, name in references]),
        kind,
    )


def stored(built: Record, kind: Kind) -> Record:
    """As the table keeps it, in float32."""
    row: Record = pa.Table.from_pylist([built], schema=TABLES[kind]).to_pylist()[0]
    return row | {"extras": json.loads(row["extras"]), "messages": json.loads(row["messages"])}


def as_table_row(of: Record) -> Record:
    """What write() takes: JSON columns as text."""
    return of | {key: json.dumps(of[key]) for key in ("extras", "messages")}
