"""A correction as data about segments: which words of the response were changed, and what stands there instead."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from difflib import SequenceMatcher

_WORD = re.compile(r"\s+|\w+|[^\w\s]")


@dataclass(frozen=True)
class Segment:
    """A changed part. Characters [start, end) of the original became characters [new_start, new_end)."""

    start: int
    end: int
    new_start: int
    new_end: int
    removed: str
    """Empty where something was put in."""
    added: str
    """Empty where something was taken out."""

    def as_json(self) -> dict[str, int | str]:
        return asdict(self)


def changed_segments(original: str, correction: str) -> list[Segment]:
    """The changes, in order, in complete words; runs of blanks and single marks are words of their own.

    Changes with only blanks between them are one segment. Putting each `added` into its place in the original gives
    the correction, character by character.
    """
    old, new = _WORD.findall(original), _WORD.findall(correction)
    old_at, new_at = _starts(old), _starts(new)
    changes: list[tuple[int, int, int, int]] = []
    # autojunk would call frequent words of a long response noise and report them as changed.
    for tag, a, b, c, d in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag == "equal":
            continue
        if changes and "".join(old[changes[-1][1] : a]).isspace():
            first = changes.pop()
            changes.append((first[0], b, first[2], d))
        else:
            changes.append((a, b, c, d))
    return [
        Segment(old_at[a], old_at[b], new_at[c], new_at[d], "".join(old[a:b]), "".join(new[c:d]))
        for a, b, c, d in changes
    ]


def _starts(words: Sequence[str]) -> list[int]:
    """Where each word begins, and where the text ends."""
    starts = [0]
    for word in words:
        starts.append(starts[-1] + len(word))
    return starts
