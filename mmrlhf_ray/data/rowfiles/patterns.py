"""Patterns of files: `*`, `?` and `{…}` in what does not exist by that very name."""

import os
import re
from collections.abc import Sequence
from itertools import product

from mmrlhf_ray.data.rowfiles.base import filesystem
from mmrlhf_ray.errors import DataError

_MARKS = frozenset("*?{")
_MAGIC = re.compile(r"([*?\[])")


def files_named(path: str) -> list[str]:
    """The files that a path or pattern stands for, in order. A path that exists is that path, whatever characters are
    in it, and so are directories at its beginning. Raises DataError where nothing matches or braces count down."""
    if not _MARKS & set(path) or _exists(path):
        return [path]
    known, rest = _known_directories(path)
    return [file for pattern in expand_braces(rest) for file in _matches(known, pattern)]


def expand_braces(pattern: str) -> list[str]:
    """`a-{000..002}.tar` and `{a,b}.tar` as the paths that they stand for."""
    pieces = re.split(r"\{([^{}]*)\}", pattern)
    choices = [_choices(piece) if i % 2 else [piece] for i, piece in enumerate(pieces)]
    return ["".join(parts) for parts in product(*choices)]


def _choices(inside: str) -> Sequence[str]:
    numbers = re.fullmatch(r"(\d+)\.\.(\d+)", inside)
    if numbers is None:
        return inside.split(",")
    first, last = numbers.groups()
    if int(first) > int(last):
        raise DataError(f"{{{inside}}} counts down; write the smaller number first")
    return [str(n).zfill(len(first)) for n in range(int(first), int(last) + 1)]


def _exists(path: str) -> bool:
    fs, inside = filesystem(path)
    return bool(fs.exists(inside))


def _known_directories(path: str) -> tuple[str, str]:
    """(directories that exist by these names, the rest of the path) of a local path."""
    if "://" in path:  # there, looking costs a request each
        return "", path
    known, rest = "", path
    while "/" in rest:
        first, _, others = rest.partition("/")
        if not os.path.isdir(f"{known}{first}/"):
            break
        known, rest = f"{known}{first}/", others
    return known, rest


def _matches(known: str, pattern: str) -> list[str]:
    path = known + pattern
    if not {"*", "?"} & set(pattern) or _exists(path):
        return [path]
    fs, inside = filesystem(_MAGIC.sub(r"[\1]", known) + pattern)
    found = sorted(fs.unstrip_protocol(str(p)) if "://" in path else str(p) for p in fs.glob(inside))
    if not found:
        raise DataError(f"no file matches {path}; correct the path of data or eval_data")
    return found
