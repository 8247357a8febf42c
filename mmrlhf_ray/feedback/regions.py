"""Places that an answer points at: boxes in pictures, ranges of sounds and clips, marked text of responses."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

RegionKind = Literal["box", "range", "text"]
REGION_KINDS: tuple[RegionKind, ...] = get_args(RegionKind)
KIND_IN: Mapping[str, RegionKind] = {"image": "box", "audio": "range", "video": "range"}
"""The kind of region that a medium of each kind can have."""
NUMBERS: Mapping[RegionKind, int] = {"box": 4, "range": 2, "text": 2}
"""How many numbers an extent has."""


GOOD, BAD = "good", "bad"
"""Aspects of the ranges that presses of keys stand for."""
REACTION_S = (0.2, 0.8)
"""A press is about what was seen so many seconds before it: Knox and Stone, "Interactively Shaping Agents via Human
Reinforcement: The TAMER Framework", 2009, which spread a press over these."""


@dataclass(frozen=True)
class Region:
    """One place, and what it is about: the vote as a whole, an aspect, a claim, or both of these."""

    kind: RegionKind
    index: int
    """Of the medium among those of the prompt; of a text, of the response."""
    extent: tuple[float, ...]
    """box: left, top, width and height as shares of the picture, 0 … 1. range: start and end in seconds. text: start
    and end in Unicode characters of the response."""
    aspect: str = ""
    """"" = no aspect in particular."""
    claim: tuple[int, int, int] | None = None
    """(response, start, end): the words of a response for or against which this place speaks."""
    note: str = ""

    @property
    def responses(self) -> tuple[int, ...]:
        """Indices of the responses that it names."""
        marked = (self.index,) if self.kind == "text" else ()
        return (*marked, *(() if self.claim is None else (self.claim[0],)))


def renumbered(region: Region, numbers: Sequence[int]) -> Region:
    """The region with response i called numbers[i]."""
    claim = region.claim
    return replace(
        region,
        index=numbers[region.index] if region.kind == "text" else region.index,
        claim=None if claim is None else (numbers[claim[0]], claim[1], claim[2]),
    )


def pressed(presses: Sequence[Sequence[Any]]) -> list[Region]:
    """The ranges that presses (medium, second, 1 or −1) are about; what is before the beginning is left out."""
    least, most = REACTION_S
    return [
        Region("range", medium, (max(0.0, second - most), second - least), GOOD if sign > 0 else BAD)
        for medium, second, sign in presses
        if second > least
    ]


def region_of(row: Mapping[str, Any]) -> Region:
    """The region of an object as regions_json() writes it; raises KeyError, TypeError or ValueError for another."""
    kind = row["kind"]
    if kind not in NUMBERS or len(row["extent"]) != NUMBERS[kind]:
        raise ValueError(f"expected {' or '.join(REGION_KINDS)} with its numbers, got {kind!r} {row['extent']!r}")
    claim = row.get("claim")
    extent = tuple(int(value) if kind == "text" else float(value) for value in row["extent"])
    named = None if claim is None else (int(claim[0]), int(claim[1]), int(claim[2]))
    return Region(kind, int(row["index"]), extent, str(row.get("aspect") or ""), named, str(row.get("note") or ""))


def regions_of(text: str) -> tuple[Region, ...]:
    """The regions of a JSON list; raises as region_of() does."""
    return tuple(region_of(row) for row in json.loads(text))


def regions_json(regions: Sequence[Region]) -> str:
    """A JSON list of objects with the fields of Region."""
    return json.dumps([asdict(region) for region in regions], ensure_ascii=False)
