"""A format of the ecosystem, and how all of them treat keys they do not know."""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, Protocol, cast

import pyarrow as pa

from mmrlhf_ray.data.errors import RowError
from mmrlhf_ray.data.validate import parse_json

Kind = Literal["PROMPT", "DEMONSTRATION", "PREFERENCE", "RANKING"]
"""Which record a row is read as: the name of its table."""

KINDS: tuple[Kind, ...] = ("PROMPT", "DEMONSTRATION", "PREFERENCE", "RANKING")

Embedding = Literal["path", "feature", "data_uri"]
"""How a format's users hold media: paths; of images {"bytes", "path"} where rows are Parquet; data URIs."""

Row = Mapping[str, Any]
MediaNames = Mapping[str, Any]
"""media_id → what is written for it: a path, a data URI, or {"bytes", "path"}."""

_OURS = ("prompt_id", "task")
"""Keys of the project that stand in the rows of every format."""

SYSTEM = ("system", "system_prompt", "system_message")
TOOLS = ("tools", "functions")
PROMPT_PARTS: tuple[str, ...] = (*SYSTEM, *TOOLS, "objects", "history")
"""Keys that are parts of the prompt in the rows of many tools (unread.py)."""

_MEDIA_KEY = re.compile(
    r"(?:(?P<image>image|img|picture|photo)|(?P<audio>audio|sound|speech|wav)|(?P<video>video|clip)"
    r"|(?P<any>media|file|attachment|multi_modal|mm))s?"
    r"(?:_?(?:path|file|filepath|filename|file_name|name|url|uri|bytes|data)s?)?",
    re.IGNORECASE,
)


class Format(Protocol):
    """How rows of one kind of data set are read and written. Pure functions of one row; nothing is opened."""

    @property
    def name(self) -> str: ...

    @property
    def reads(self) -> frozenset[Kind]:
        """Records that its rows can be read as."""
        ...

    @property
    def writes(self) -> frozenset[Kind]:
        """Records that it can express."""
        ...

    @property
    def embeds(self) -> Embedding: ...

    @property
    def parquet(self) -> bool:
        """Whether rows of all shapes fit into columns of one type each; else they are JSON lines."""
        ...

    @property
    def objects(self) -> frozenset[str]:
        """Extras that its users keep as objects in Parquet, too, where keys that a row lacks become null."""
        ...

    @property
    def keys(self) -> frozenset[str]:
        """Keys that mean something in its rows."""
        ...

    @property
    def one_or_several(self) -> frozenset[str]:
        """Keys of one value or a list of some, which are lists in Parquet, where a column has one type."""
        ...

    def matches(self, row: Row) -> bool:
        """Whether the row's keys, those of its content parts included, are those of the format; says nothing about
        what they hold."""
        ...

    def read(self, row: Row, kind: Kind) -> dict[str, Any]:
        """A raw row (docs/data.md) for a record of `kind`; keys that the format does not have go to its extras.

        Raises RowError that names the key.
        """
        ...

    def write(self, record: Row, kind: Kind, media_names: MediaNames) -> dict[str, Any]:
        """A row for a record of `kind`'s table. Raises RowError for what the format cannot express."""
        ...


def media_kind_of(key: str) -> str | None:
    """image, audio, video, or any, where a key is called like one that names media, as `audio_path` is."""
    found = _MEDIA_KEY.fullmatch(key)
    return found.lastgroup if found else None


def kind_of(schema: pa.Schema) -> Kind:
    """The kind of record that a table holds. `schema`: PROMPT, DEMONSTRATION, PREFERENCE or RANKING."""
    name = schema.metadata[b"mmrlhf.table"].decode()
    assert name in KINDS, f"{name} holds no records"
    return cast("Kind", name)


def require(row: Row, keys: Sequence[str], name: str) -> None:
    """Raise RowError for the first of `keys` that the row lacks."""
    for key in keys:
        if row.get(key) is None:
            raise RowError(
                f"{key} is missing, {name} rows have {', '.join(keys)}", f"add {key}, or name another format"
            )


def one_of(row: Row, keys: Sequence[str]) -> str:
    """Which of `keys` the row has. Raises RowError where it has several or none."""
    given = [key for key in keys if row.get(key) is not None]
    if len(given) != 1:
        found = " and ".join(given) or "neither"
        raise RowError(f"expected {' or '.join(keys)}, got {found}", "give exactly one of the two")
    return given[0]


def raw_row(row: Row, used: Collection[str], **known: Any) -> dict[str, Any]:
    """A raw row of what was understood (`known`, None = nothing); the keys of `row` not in `used` go to extras."""
    raw = {key: value for key, value in known.items() if value is not None}
    others = {key: value for key, value in row.items() if key not in used}
    for key in _OURS:
        if key not in raw and key in others:
            raw[key] = others.pop(key)
    nested = others.pop("extras", {})
    if isinstance(nested, str):
        nested = parse_json(nested, "extras")
    if not isinstance(nested, Mapping):
        raise RowError(f"extras is a {type(nested).__name__}, expected an object", "rename the key or give an object")
    mine = raw.pop("extras", {})
    for one, other in ((nested, others), (nested, mine), (mine, others)):
        twice = sorted(one.keys() & other.keys())
        if twice:
            raise RowError(f"{twice[0]} stands in the row and in its extras", "keep one of the two")
    extras = {**mine, **nested, **others}
    return raw | ({"extras": extras} if extras else {})


def plain_row(record: Row, reserved: Collection[str], taken: Collection[str] = ()) -> dict[str, Any]:
    """The keys that every format writes in addition to its own: prompt_id, task, and the extras as keys of their own.

    `reserved`: keys that mean something in the format; extras of such names stay in an object `extras`, and so do
    those named like media or another part of a prompt, and what is null, as null keys of a row are taken as absent.
    `taken`: extras that the format has written elsewhere.
    """
    extras = {key: value for key, value in json.loads(record["extras"]).items() if key not in taken}
    kept = (*reserved, *_OURS, *PROMPT_PARTS, "extras")
    nested = {k: value for k, value in extras.items() if k in kept or value is None or media_kind_of(k)}
    row: dict[str, Any] = {key: value for key, value in extras.items() if key not in nested}
    if "prompt_id" not in reserved:
        row["prompt_id"] = record["prompt_id"]
    if "task" not in reserved and record["task"] != "default":
        row["task"] = record["task"]
    return row | ({"extras": nested} if nested else {})


def refuse(found: bool, what: str, name: str) -> None:
    """Raise RowError where a record has something that the format lacks."""
    if found:
        raise RowError(f"{name} cannot express {what}", "write another format (docs/data.md), or mmrlhf, which can")


def has_label(row: Row) -> bool:
    """Whether the row says in `label` that a response was liked or not, be it as a number or text, refused later."""
    label = row.get("label")
    if isinstance(label, str):
        return label.strip().lower() in ("true", "false")
    return isinstance(label, (bool, int, float)) and label in (-1, 0, 1)


def label_of(row: Row, key: str) -> float | None:
    """The feedback that a yes/no label stands for, None where there is none. Raises RowError."""
    value = row.get(key)
    if value is None:
        return None
    if not isinstance(value, bool):
        raise RowError(f"{key} is {value!r}, expected true or false", f"say whether the response was liked in {key}")
    return 1.0 if value else -1.0


def label_for(record: Row, key: str, name: str) -> dict[str, bool]:
    """{key: liked} of a demonstration, {} where nobody judged it. Raises RowError for what is neither yes nor no."""
    feedback = record["feedback"]
    refuse(feedback not in (0.0, 1.0, -1.0), f"feedback {feedback:g}, only 1, -1 and none", name)
    return {key: feedback > 0} if feedback else {}
