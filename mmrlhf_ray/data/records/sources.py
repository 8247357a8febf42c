"""Where the media of records come from: files below one directory, bytes in the rows themselves, addresses."""

import base64
import binascii
import os
import stat
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, unquote_to_bytes

import pyarrow as pa

from mmrlhf_ray.config.data import MediaLimits, RemoteMedia
from mmrlhf_ray.data.errors import RowError
from mmrlhf_ray.data.media import DEFAULT_LIMITS, MediaRow, media_row
from mmrlhf_ray.data.media.remote import fetch
from mmrlhf_ray.data.records.hints import remedy_for, way_out_remedy
from mmrlhf_ray.data.validate import MEDIA_LISTS, MediaPart, Reference, Shown, reference_list
from mmrlhf_ray.schema import MEDIA

_SHOWN_CHARACTERS = 120
_ADDRESSES = ("http://", "https://")
_KINDS_OF_NAMES = "give a path, a data URI or an https address"


class MediaSource(Protocol):
    """Finds the media of rows."""

    def attach(self, raw: Mapping[str, Any], parts: Sequence[MediaPart]) -> list[Shown]:
        """The media of each part of a row. Raises RowError when one is missing, left over, or of another kind."""
        ...

    def get(self, media_id: str) -> MediaRow:
        """The media; ValueError when the stored bytes are not those that the id names."""
        ...

    def table(self, media_ids: Collection[str]) -> pa.Table:
        """The MEDIA rows with these ids."""
        ...


@dataclass(frozen=True)
class MediaPlace:
    """Where references lead, and how far."""

    root: Path | None
    """Paths are relative to this directory and may not leave it; None where rows have no directory."""
    limits: MediaLimits = DEFAULT_LIMITS
    remote: RemoteMedia = field(default_factory=RemoteMedia)


def load_media(kind: str, reference: Reference, place: MediaPlace) -> MediaRow:
    """The MEDIA row that a reference stands for. Nothing is decoded. Raises RowError."""
    name = shown_name(reference)
    data = _bytes(reference, place)
    try:
        if len(data) > place.limits.bytes:
            raise ValueError(f"{len(data)} bytes, the limit is {place.limits.bytes}")
        return media_row(kind, data)
    except ValueError as error:
        raise RowError(f"{name}: {error}", "give a smaller file or one of a supported format") from error


def shown_name(reference: Reference) -> str:
    """A reference in an error: no contents, and no address's query, which may hold a secret."""
    if isinstance(reference, bytes):
        return f"<{len(reference)} bytes>"
    if not isinstance(reference, str):
        path, data = reference.get("path"), reference.get("bytes")
        return str(path)[:_SHOWN_CHARACTERS] if path else f"<{len(data or b'')} bytes>"
    if _is_data_uri(reference):
        return reference[: min(40, reference.find(",") + 1 or 40)] + "…"
    if _is_address(reference):
        reference = reference.partition("?")[0]
        scheme, _, rest = reference.partition("://")
        host, slash, path = rest.partition("/")
        reference = f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"
    return reference[:_SHOWN_CHARACTERS]


def named_references(raw: Mapping[str, Any], parts: Sequence[MediaPart]) -> list[tuple[str, Reference]]:
    """(kind, reference) of each part: parts without one take the next of their kind's list, until none is left.

    Raises RowError when a list has more or fewer than there are such parts.
    """
    files = {kind: reference_list(raw, key) for kind, key in MEDIA_LISTS.items()}
    for kind, key in MEDIA_LISTS.items():
        open_parts = sum(part.kind == kind and part.path is None for part in parts)
        if open_parts != len(files[kind]):
            raise RowError(
                f"the text has {open_parts} {kind} placeholder(s) for {len(files[kind])} file(s) in {key}",
                f"give one <{kind}> or {kind} part per file, in order",
            )
    queues = {kind: iter(names) for kind, names in files.items()}
    return [(part.kind, next(queues[part.kind]) if part.path is None else part.path) for part in parts]


class FileMedia:
    """Media that rows refer to by path, bytes or address. Each file and address is read once."""

    def __init__(
        self, directory: Path | None, limits: MediaLimits = DEFAULT_LIMITS, remote: RemoteMedia | None = None
    ) -> None:
        """Paths are relative to `directory` and may not leave it."""
        self._place = MediaPlace(directory and directory.resolve(), limits, remote or RemoteMedia())
        self._by_name: dict[str, str] = {}
        self._rows: dict[str, MediaRow] = {}

    def attach(self, raw: Mapping[str, Any], parts: Sequence[MediaPart]) -> list[Shown]:
        if "media_ids" in raw:
            raise RowError("media_ids needs a media.parquet", "name the files of a .jsonl row by their paths")
        return [self._read(kind, reference) for kind, reference in named_references(raw, parts)]

    def get(self, media_id: str) -> MediaRow:
        return self._rows[media_id]

    def table(self, media_ids: Collection[str]) -> pa.Table:
        return pa.Table.from_pylist([row for key, row in self._rows.items() if key in media_ids], schema=MEDIA)

    def _read(self, kind: str, reference: Reference) -> Shown:
        name = shown_name(reference)
        key = reference if isinstance(reference, str) and not _is_data_uri(reference) else None
        media_id = self._by_name.get(key) if key is not None else None
        if media_id is None:
            row = load_media(kind, reference, self._place)
            media_id = self._rows.setdefault(row["media_id"], row)["media_id"]
            if key is not None:
                self._by_name[key] = media_id
        known = self._rows[media_id]["kind"]
        if known != kind:
            raise RowError(
                f"{name} is used as {kind} here and as {known} elsewhere",
                "extract the track that is meant into its own file",
            )
        return Shown(kind, media_id, name)


class DerivedMedia:
    """A source, and media that were made from its own."""

    def __init__(self, source: MediaSource) -> None:
        self._source = source
        self._made: dict[str, MediaRow] = {}

    def add(self, row: MediaRow) -> None:
        """One that was made."""
        self._made[row["media_id"]] = row

    def attach(self, raw: Mapping[str, Any], parts: Sequence[MediaPart]) -> list[Shown]:
        return self._source.attach(raw, parts)

    def get(self, media_id: str) -> MediaRow:
        return self._made[media_id] if media_id in self._made else self._source.get(media_id)

    def table(self, media_ids: Collection[str]) -> pa.Table:
        made = [row for media_id, row in self._made.items() if media_id in media_ids]
        found = self._source.table({media_id for media_id in media_ids if media_id not in self._made})
        return pa.concat_tables([found, pa.Table.from_pylist(made, schema=MEDIA)]).combine_chunks()


def _bytes(reference: Reference, place: MediaPlace) -> bytes:
    if isinstance(reference, bytes):
        return reference
    if not isinstance(reference, str):
        data, path = reference.get("bytes"), reference.get("path")
        return data if data else _bytes(path or "", place)
    if _is_data_uri(reference):
        return _data_uri(reference, place.limits)
    if _is_address(reference):
        return fetch(reference, place.remote, place.limits.bytes)
    return _file(reference, place)


def _is_data_uri(reference: str) -> bool:
    return reference[:5].lower() == "data:"  # RFC 3986, 3.1: the case of a scheme means nothing


def _is_address(reference: str) -> bool:
    return reference[:8].lower().startswith(_ADDRESSES)


def _data_uri(uri: str, limits: MediaLimits) -> bytes:
    """RFC 2397. The type that it declares is not looked at: the bytes tell it."""
    head, comma, body = uri.partition(",")
    name, remedy = shown_name(uri), "write data:<type>;base64,<base64>"
    if not comma:
        raise RowError(f"{name} is a data URI without a comma", remedy)
    if len(body) > 3 * limits.bytes:  # %-escapes are the longest way to write a byte
        raise RowError(f"{name} is longer than {limits.bytes} bytes can be", "give a smaller file")
    try:
        if head.lower().endswith(";base64"):
            return base64.b64decode("".join(body.split()), validate=True)
        return unquote_to_bytes(body)
    except (binascii.Error, ValueError) as error:  # ValueError: characters beyond ASCII
        raise RowError(f"{name} is not base64: {error}", remedy) from error


def _file(name: str, place: MediaPlace) -> bytes:
    shown = name[:_SHOWN_CHARACTERS]
    root = place.root
    if not name:
        raise RowError("the name of a file is empty", "give a path, or leave the entry out")
    if "://" in name:
        remedy = f"give the path alone, {unquote(name[7:])}" if name.lower().startswith("file://") else _KINDS_OF_NAMES
        raise RowError(f"{shown!r} is an address of a kind that is not fetched", remedy)
    if root is None:
        raise RowError(
            f"{shown!r} is a path, and rows that lie in no directory have nothing that it could be relative to",
            "set data.media_root (--media-root) to a directory above the media",
        )
    try:
        path = (root / name).resolve(strict=True)
        inside = path.is_relative_to(root.resolve())
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: symlink loop; ValueError: NUL in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise RowError(f"{shown!r} cannot be opened: {reason}", remedy_for(name, root)) from error
    if not inside:
        raise RowError(f"{shown} leads out of {root}", way_out_remedy(path, root))
    return _regular_file(path, shown, place.limits)


def _regular_file(path: Path, shown: str, limits: MediaLimits) -> bytes:
    try:
        # The path is resolved, so a link here was put there since; and a pipe must not keep us waiting.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise RowError(f"{shown} cannot be read: {error.strerror}", "make the file readable") from error
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise RowError(f"{shown} is not a regular file", "give the path of a file")
        if status.st_size > limits.bytes:  # before the bytes are read into memory
            raise RowError(f"{shown}: {status.st_size} bytes, the limit is {limits.bytes}", "give a smaller file")
        with os.fdopen(handle, "rb", closefd=False) as file:
            return file.read(limits.bytes + 1)
    except OSError as error:
        raise RowError(f"{shown} cannot be read: {error.strerror}", "make the file readable") from error
    finally:
        os.close(handle)
