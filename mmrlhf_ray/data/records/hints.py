"""What a name that leads to no file was probably meant to be: for messages, nothing is opened by it."""

import base64
import binascii
import os
import unicodedata
from functools import lru_cache
from itertools import islice
from pathlib import Path
from urllib.parse import unquote

from mmrlhf_ray.data.media.formats import FORMATS, told_format

_LISTED = 100_000
_BASE64_HEAD = 64
_CACHE_REMEDY = (
    "files in the cache of the Hugging Face hub are links to its blobs; download them with "
    "snapshot_download(…, local_dir=…) and give that directory"
)


def remedy_for(name: str, root: Path) -> str:
    """What to do about a name that stands for no file below `root`."""
    if _is_base64(name):
        return 'the name is the file itself in base64; write "data:;base64," in front of it'
    for meant in dict.fromkeys((name, name.replace("\\", "/"), unquote(name), unquote(name).replace("\\", "/"))):
        found = _spelt_otherwise(meant, root)
        if found is not None:
            return f"there is {found!r}; write it so"
    if "\\" in name:
        return f"write / between directories, and put it below {root}"
    return f"put it below {root}"


def way_out_remedy(path: Path, root: Path) -> str:
    """What to do about a name that leads to `path`, outside of `root`."""
    if path.parent.name == "blobs" and "snapshots" in root.parts:
        return _CACHE_REMEDY
    return "put media below the directory of the records, or set data.media_root (--media-root); links may not lead out"


def _is_base64(name: str) -> bool:
    head = name[: min(_BASE64_HEAD, len(name) // 4 * 4)]
    try:
        data = base64.b64decode(head, validate=True)
    except (binascii.Error, ValueError):
        return False
    return len(data) > 8 and any(_is_media(kind, data) for kind in FORMATS)


def _is_media(kind: str, data: bytes) -> bool:
    try:
        told_format(kind, data)
    except ValueError:
        return False
    return True


def _spelt_otherwise(name: str, root: Path) -> str | None:
    """A file below `root` whose path differs in nothing but case and the form of its Unicode characters."""
    pieces = Path(name).parts
    if not pieces or Path(name).is_absolute() or ".." in pieces:
        return None
    found = Path()
    for piece in pieces:
        match = _listing(root / found).get(_plain(piece))
        if match is None:
            return None
        found /= match
    return str(found) if (root / found).is_file() else None


@lru_cache(maxsize=64)
def _listing(directory: Path) -> dict[str, str]:
    try:
        with os.scandir(directory) as entries:
            return {_plain(entry.name): entry.name for entry in islice(entries, _LISTED)}
    except OSError:
        return {}


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
