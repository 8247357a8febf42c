"""Passages of local files that fit a query best, by BM25."""

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mmrlhf_ray.errors import ConfigError

_WORD = re.compile(r"\w+")
_SATURATION, _LENGTH = 1.5, 0.75
"""k1 and b."""
_TEXT = (".txt", ".md")
_ROWS = ".jsonl"


@dataclass(frozen=True)
class Passage:
    """A paragraph of a text file, or the text of a row."""

    name: str
    """Its file, or the row's title."""
    text: str


class Index:
    """Okapi BM25 (Robertson and Zaragoza 2009, section 3.3) over all passages, held in memory."""

    def __init__(self, passages: list[Passage]):
        self._passages = passages
        self._places: dict[str, list[tuple[int, int]]] = {}
        self._lengths = []
        for number, passage in enumerate(passages):
            words = _words(f"{passage.name} {passage.text}")
            self._lengths.append(len(words))
            for word, count in Counter(words).items():
                self._places.setdefault(word, []).append((number, count))
        self._mean = sum(self._lengths) / max(1, len(self._lengths))

    def best(self, query: str, count: int) -> list[Passage]:
        """At most `count` passages with a word of the query, the best first; of equal ones the earlier."""
        scores: defaultdict[int, float] = defaultdict(float)
        for word in dict.fromkeys(_words(query)):
            places = self._places.get(word, [])
            rarity = math.log(1 + (len(self._passages) - len(places) + 0.5) / (len(places) + 0.5))
            for number, times in places:
                stretch = 1 - _LENGTH + _LENGTH * self._lengths[number] / self._mean
                scores[number] += rarity * times * (_SATURATION + 1) / (times + _SATURATION * stretch)
        ranked = sorted(scores, key=lambda number: (-scores[number], number))
        return [self._passages[number] for number in ranked[:count]]


def read_index(path: Path) -> Index:
    """Of a file, or of all .txt, .md and .jsonl files below a directory. Raises ConfigError and OSError."""
    files = sorted(p for p in path.rglob("*") if p.suffix in (*_TEXT, _ROWS)) if path.is_dir() else [path]
    passages = [passage for file in files for passage in _passages(file)]
    if not passages:
        raise ConfigError(f"{path} has no passage; expected .txt and .md files, or .jsonl with the key `text` in a row")
    return Index(passages)


def _passages(file: Path) -> Iterator[Passage]:
    text = file.read_text(encoding="utf-8")
    if file.suffix != _ROWS:
        for block in re.split(r"\n\s*\n", text):
            if block.strip():
                yield Passage(file.name, block.strip())
        return
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            row = _row(line, f"{file}, line {number}")
            yield Passage(str(row.get("title") or file.name), row["text"])


def _row(line: str, place: str) -> Mapping[str, str]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"{place}: not JSON ({error})") from None
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        raise ConfigError(f"{place}: expected an object with text under `text`")
    return row


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())
