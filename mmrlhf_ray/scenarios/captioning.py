"""Captions whose things have places, in the layout of Flickr30k Entities.

    flickr30k-images/ID.jpg
    Sentences/ID.txt          five captions: [/EN#12/people A young man] throws [/EN#13/other a ball] .
    Annotations/ID.xml        a box of each numbered thing

A caption is decided phrase by phrase: is it there, and where? Phrases of other pictures are asked about as often as the
picture's own, so that what is made up can be counted (Rohrbach et al. 2018).
"""

import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from mmrlhf_ray.algorithms.statistics import wilson_interval
from mmrlhf_ray.config import DiscreteConfig
from mmrlhf_ray.config.discrete_parts import LocateTask
from mmrlhf_ray.data.media import MediaRow, media_row
from mmrlhf_ray.discrete.decide import Preferences, scores_of
from mmrlhf_ray.discrete.spaces import grid_boxes
from mmrlhf_ray.discrete.tasks import message_text
from mmrlhf_ray.errors import DataError
from mmrlhf_ray.pipelines.discrete.report import interval_of
from mmrlhf_ray.scenarios.cases import Case
from mmrlhf_ray.scenarios.measures import Decided
from mmrlhf_ray.scenarios.redaction import redacted

CLAIM, PLACE, CAPTION = "claim", "place", "caption"
CLASSES = ("there", "absent")
IMAGES, SENTENCES, BOXES = "flickr30k-images", "Sentences", "Annotations"
_PHRASE = re.compile(r"\[/EN#(\d+)((?:/\w+)+) ([^\]]+)\]")
_ARTICLES = {"a", "an", "the", "some", "his", "her", "their", "its"}
_SMALL = 0.08
"""Share of the picture below which a thing is a small one."""
_TRIES = 50
"""Phrases of other pictures that are looked at for one that can be asked about."""
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class _Thing:
    number: str
    phrase: str
    box: Box | None
    """In pixels; None where it has none, such as a scene."""


@dataclass(frozen=True)
class _Described:
    name: str
    pixels: int
    things: tuple[_Thing, ...]
    nouns: frozenset[str]
    """Last words of all of its phrases: nothing else that ends in one of them can be said to be absent."""


def read(root: Path) -> Iterator[Case]:
    """Cases of the tasks `claim` and `place` for each thing with a box, and one of `caption` for each picture.

    Raises DataError for a directory without captions, and for a picture or boxes that are not there.
    """
    files = sorted((root / SENTENCES).glob("*.txt"))
    if not files:
        raise DataError(f"{root}: expected Flickr30k Entities with its pictures: {SENTENCES}/, {BOXES}/, {IMAGES}/")
    described = [_described(root, file) for file in files]
    for own in described:
        media = (media_row("image", (root / IMAGES / f"{own.name}.jpg").read_bytes()),)
        placed = [(thing, thing.box) for thing in own.things if thing.box is not None]
        for thing, box in placed:
            name, group = f"{own.name}-{thing.number}", _size(box, own.pixels)
            more = {"picture": own.name, "box": list(box)}
            yield Case(name, own.name, thing.phrase, media, "there", group, CLAIM, more)
            yield Case(f"{name}-place", own.name, thing.phrase, media, "there", group, PLACE, more)
        for number, phrase in enumerate(_made_up(own, described, len(placed))):
            more = {"picture": own.name, "harm": ["there"]}
            yield Case(f"{own.name}-not{number}", own.name, phrase, media, "absent", "not there", CLAIM, more)
        if placed:
            yield _caption(own, media, placed)


def _caption(own: _Described, media: tuple[MediaRow, ...], placed: Sequence[tuple[_Thing, Box]]) -> Case:
    """For a model that writes: the answer has a box behind each phrase."""
    phrases = [thing.phrase for thing, _ in placed]
    more = {"boxes": [list(box) for _, box in placed], "facts": " ".join(phrases)}
    said = ", ".join(f"{thing.phrase} {list(box)}" for thing, box in placed)
    text = "Say what is in the picture, with the box [x1, y1, x2, y2] of each thing in pixels."
    return Case(f"{own.name}-caption", own.name, text, media, said, "all", CAPTION, more)


def _size(box: Box, pixels: int) -> str:
    return "small" if (box[2] - box[0]) * (box[3] - box[1]) < _SMALL * pixels else "large"


def _described(root: Path, file: Path) -> _Described:
    boxes, pixels = _boxes(root / BOXES / f"{file.stem}.xml")
    if not (root / IMAGES / f"{file.stem}.jpg").is_file():
        raise DataError(f"{file}: its picture {IMAGES}/{file.stem}.jpg is not there; add it, or remove the captions")
    phrases: dict[str, str] = {}
    nouns = set()
    for number, _types, words in _PHRASE.findall(file.read_text(encoding="utf-8")):
        cleaned = clean(words)
        if cleaned:
            phrases.setdefault(number, cleaned)
            nouns.add(cleaned.split()[-1])
    things = tuple(_Thing(number, phrase, boxes.get(number)) for number, phrase in phrases.items())
    return _Described(file.stem, pixels, things, frozenset(nouns))


def clean(words: str) -> str:
    """Lower-case words without articles, numbers and addresses: `A young man` is `young man`."""
    kept = re.findall(r"[a-z'<>]+", redacted(words).lower())
    return " ".join(word for word in kept if word not in _ARTICLES)


def _boxes(file: Path) -> tuple[dict[str, Box], int]:
    """(number → the box around all boxes of the thing, the picture's pixels)."""
    if not file.is_file():
        raise DataError(f"{file}: not there; every file of {SENTENCES}/ needs its boxes")
    found: dict[str, Box] = {}
    annotation = ElementTree.parse(file).getroot()
    for thing in annotation.iter("object"):
        corners = thing.find("bndbox")
        if corners is None:
            continue
        x1, y1, x2, y2 = (int(corners.findtext(key, "0")) for key in ("xmin", "ymin", "xmax", "ymax"))
        for number in (name.text or "" for name in thing.iter("name")):
            was = found.get(number, (x1 - 1, y1 - 1, x2, y2))  # the layout counts pixels from 1
            found[number] = (min(was[0], x1 - 1), min(was[1], y1 - 1), max(was[2], x2), max(was[3], y2))
    return found, int(annotation.findtext("size/width", "0")) * int(annotation.findtext("size/height", "0"))


def _made_up(own: _Described, described: Sequence[_Described], count: int) -> Iterator[str]:
    """Up to `count` phrases of other pictures that end in a word no phrase of this one ends in."""
    rng = np.random.default_rng(zlib.crc32(own.name.encode()))
    said = set(own.nouns)
    for _ in range(_TRIES):
        other = described[int(rng.integers(len(described)))]
        if not other.things or count == 0:
            continue
        phrase = other.things[int(rng.integers(len(other.things)))].phrase
        if phrase.split()[-1] not in said:
            said.add(phrase.split()[-1])
            count -= 1
            yield phrase


def also(
    cfg: DiscreteConfig, decided: Mapping[str, Decided], preferences: Preferences, out: Path
) -> list[tuple[str, str]]:
    """How well things are placed, and what is made up. Writes `captions.jsonl`, the caption of each held-out picture.

    The shares of what is made up are CHAIR's (Rohrbach et al. 2018, "Object Hallucination in Image Captioning").
    """
    claims, place = decided[CLAIM], cfg.tasks[PLACE]
    assert isinstance(place, LocateTask)
    boxes = np.array(grid_boxes(place.grid), np.float64)
    asked = replace(claims.cases, task_number=list(cfg.tasks).index(PLACE))  # where would it be?
    chosen = boxes[preferences(asked.observations(np.arange(len(asked))))[:, : len(boxes)].argmax(1)]
    said = claims.scores.argmax(1) == CLASSES.index("there")
    captions: dict[str, list[dict[str, object]]] = {}
    for row, mentioned, box, messages in zip(claims.extras, said, chosen, claims.cases.messages, strict=True):
        caption = captions.setdefault(str(row["picture"]), [])
        if mentioned:
            phrase = message_text(messages)
            caption.append({"phrase": phrase, "box": box.round(3).tolist(), "there": row["answer"] == "there"})
    lines = [json.dumps({"picture": name, "caption": things}) for name, things in captions.items()]
    (out / "captions.jsonl").write_text("\n".join(lines) + "\n")
    found = scores_of(decided[PLACE].cases, decided[PLACE].scores.argmax(1))
    made_up = [not thing["there"] for things in captions.values() for thing in things]
    spoiled = [not all(thing["there"] for thing in things) for things in captions.values()]
    return [
        (f"IoU of places ({len(found)})", str(interval_of(found))),
        ("places with an IoU of at least 0.5", str(interval_of((found >= 0.5).astype(np.float64)))),
        (f"mentioned things that are not there ({len(made_up)})", _share(made_up)),
        (f"captions with one ({len(spoiled)})", _share(spoiled)),
    ]


def _share(hits: Sequence[bool]) -> str:
    return str(wilson_interval(sum(hits), len(hits))) if hits else "none"
