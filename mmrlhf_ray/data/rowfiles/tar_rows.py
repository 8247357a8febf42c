"""WebDataset: tar shards whose members belong together where their names do, up to the first dot."""

import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from mmrlhf_ray.data.rowfiles.base import FRAGMENT_BYTES, FRAGMENT_ROWS, Fragment, Row, reading
from mmrlhf_ray.errors import DataError

_NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)")
_MEDIA = {
    "images": ("png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff", "heic", "heif", "avif"),
    "audios": ("wav", "flac", "ogg", "oga", "opus", "mp3", "m4a", "aac", "aiff"),
    "videos": ("mp4", "m4v", "mov", "webm", "avi", "mkv", "ogv", "mpg", "mpeg"),
}
"""Those that cannot be decoded are refused by name when they are."""
_SINGLE = {"images": "image", "audios": "audio", "videos": "video"}
_NAMING = frozenset((*_SINGLE, *_SINGLE.values()))
_LIST_OF = {suffix: key for key, suffixes in _MEDIA.items() for suffix in suffixes}
JSON_MEMBER = "json"


class TarRows:
    """Each group of members is a row: see sample_row()."""

    def __init__(self, files: Sequence[str]) -> None:
        self._files = files

    def fragments(self) -> list[Fragment]:
        return [fragment for file in self._files for fragment in _scan(file)]

    def read(self, fragment: Fragment) -> Iterator[tuple[int, Row]]:
        begin, end = fragment.place
        with reading(fragment.file) as raw:
            raw.seek(begin)
            key, members, number = "", dict[str, bytes](), fragment.first
            for own_key, suffix, member, archive in _members(fragment.file, raw):
                if member.offset >= end:
                    break
                if own_key != key and members:
                    yield number, sample_row(key, members)
                    members, number = {}, number + 1
                content = archive.extractfile(member)
                assert content is not None, "only regular files come here"
                key, members[suffix] = own_key, content.read()
            if members:
                yield number, sample_row(key, members)


def sample_row(key: str, members: dict[str, bytes]) -> Row:
    """The row of members by what follows the first dot of their names.

    `json` is the row; pictures, sounds and clips go to `images`, `audios` and `videos` in the order of their names,
    unless the row names its media itself, in these keys, in `image`, `audio`, `video` or in content parts: then those
    names stand for members. Other members are text under their own name, or bytes if they are none. Without `json`, or
    with one that is not an object, the JSON text alone is the row, for the reader to refuse.
    """
    import json

    text = members.get(JSON_MEMBER)
    try:
        row: Any = {} if text is None else json.loads(text)
    except (ValueError, RecursionError):
        return text or b""
    if not isinstance(row, dict):
        return text or b""
    media: dict[str, list[dict[str, Any]]] = {}
    for suffix, content in sorted(members.items()):
        kind = _LIST_OF.get(suffix.rpartition(".")[2].lower())
        if kind is not None:
            media.setdefault(kind, []).append({"bytes": content, "path": f"{key}.{suffix}"})
        elif suffix != JSON_MEMBER:
            row.setdefault(suffix, _text_or_bytes(content))
    by_name = {item["path"].rpartition("/")[2]: item for items in media.values() for item in items}
    found: list[Any] = []
    row = {key: _with_members(value, key, by_name, found) for key, value in row.items()}
    for kind, items in media.items():
        if not row.get(kind) and not row.get(_SINGLE[kind]):
            row[kind] = [item for item in items if item not in found]
    return {key: value for key, value in row.items() if value != [] or key not in media}


def _with_members(value: Any, key: str, by_name: Mapping[str, Any], found: list[Any]) -> Any:
    """The value with members in place of their names, under keys that name media; `found` gets them."""
    if isinstance(value, dict):
        return {k: _with_members(v, k, by_name, found) for k, v in value.items()}
    if isinstance(value, list):
        return [_with_members(item, key, by_name, found) for item in value]
    member = by_name.get(value.rpartition("/")[2]) if isinstance(value, str) and key in _NAMING else None
    if member is None:
        return value
    found.append(member)
    return member


def _text_or_bytes(content: bytes) -> str | bytes:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content


def _scan(file: str) -> Iterator[Fragment]:
    first = rows = begin = 0
    at, key = 0, ""
    with reading(file) as raw:
        for own_key, _, member, archive in _members(file, raw):
            if own_key != key:
                if rows == FRAGMENT_ROWS or (rows and member.offset - begin >= FRAGMENT_BYTES):
                    yield Fragment(file, first, rows, (begin, member.offset))
                    first, rows, begin = first + rows, 0, member.offset
                begin = begin if rows else member.offset
                rows += 1
                key = own_key
            at = archive.offset
    if rows:
        yield Fragment(file, first, rows, (begin, at))


def _members(file: str, raw: BinaryIO) -> Iterator[tuple[str, str, tarfile.TarInfo, tarfile.TarFile]]:
    """(key, suffix, header, archive) of each regular file that has both, from where `raw` stands."""
    try:
        with tarfile.open(fileobj=raw, mode="r:") as archive:
            for member in archive:
                archive.members.clear()  # type: ignore[attr-defined]  # a shard may have millions
                named = _NAME.fullmatch(member.name)
                if member.isreg() and named:
                    yield *named.groups(), member, archive  # type: ignore[misc]
    except tarfile.TarError as error:
        raise DataError(f"{file} is not a readable tar file: {error}; write it anew") from error
