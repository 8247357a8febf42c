"""align-anything: a question, two responses and which of them is better; safety rows name two verdicts.

PKU-SafeRLHF's rows, which it takes too, count the responses from 0.
"""

from dataclasses import dataclass
from typing import Any

from mmrlhf_ray.data.errors import RowError
from mmrlhf_ray.data.formats.base import (
    Embedding,
    Kind,
    MediaNames,
    Row,
    one_of,
    plain_row,
    raw_row,
    refuse,
    require,
)
from mmrlhf_ray.data.formats.chat import media_lists, one_question, written_media
from mmrlhf_ray.data.validate import text

_RESPONSES = ("response_1", "response_2")
_FROM_ZERO = ("response_0", "response_1")
_HELPFUL, _SAFER, _OVERALL = "more_helpful_response_id", "safer_response_id", "overall_response"
_BETTER = "better_response_id"
_MEDIA = {"image": "images", "audio_path": "audios", "video_path": "videos"}
_ASKED = ("question", "prompt")
_ALL_VERDICTS = (_OVERALL, _HELPFUL, _BETTER, _SAFER)
_ASPECTS = {"helpful": (_HELPFUL, _BETTER), "safe": (_SAFER,)}


@dataclass(frozen=True)
class AlignAnything:
    """`verdicts`: keys that say which response is better, the first that a row has counts."""

    name: str = "align_anything"
    verdicts: tuple[str, ...] = (_OVERALL, _HELPFUL, _BETTER)
    reads: frozenset[Kind] = frozenset({"PROMPT", "PREFERENCE", "RANKING"})
    writes: frozenset[Kind] = frozenset({"PREFERENCE"})
    embeds: Embedding = "feature"
    parquet: bool = True
    objects: frozenset[str] = frozenset()

    keys: frozenset[str] = frozenset((*_ASKED, *_RESPONSES, *_FROM_ZERO, *_MEDIA, *_ALL_VERDICTS))
    one_or_several: frozenset[str] = frozenset()

    def matches(self, row: Row) -> bool:
        verdict = next((key for key in _ALL_VERDICTS if key in row), None)
        return row.keys() >= set(_pair(row)) and verdict in self.verdicts

    def read(self, row: Row, kind: Kind) -> dict[str, Any]:
        pair = _pair(row)
        require(row, pair, self.name)
        asked = one_of(row, _ASKED)
        used = [asked, *_MEDIA]
        answers: dict[str, Any] = {}
        if kind != "PROMPT":
            verdict = next((key for key in self.verdicts if row.get(key) is not None), None)
            if verdict is None:
                raise RowError(f"{' and '.join(self.verdicts)} missing", f"say which response is better, {_ids(pair)}")
            answers = _READERS[kind](row, pair, verdict)
            aspects = [key for keys in _ASPECTS.values() for key in keys]
            used += [*pair, verdict, *(aspects if kind == "RANKING" else ())]
        lists = media_lists({key: row[key] for key in _MEDIA if key in row}, _MEDIA)
        return raw_row(row, used, prompt=text(row[asked], asked), **lists, **answers)

    def write(self, record: Row, kind: Kind, media_names: MediaNames) -> dict[str, Any]:
        refuse(record["margin"] != 0, f"margin {record['margin']:g}", self.name)
        lists = written_media(record, media_names)
        refuse(len(lists) > 1 or any(len(items) > 1 for items in lists.values()), "more than one medium", self.name)
        reserved = (*_ASKED, *_RESPONSES, *_FROM_ZERO, *_MEDIA, self.verdicts[0])
        return {
            "question" if "images" in lists else "prompt": one_question(record, self.name),
            **{key: lists[name][0] for key, name in _MEDIA.items() if name in lists},
            "response_1": record["chosen"],
            "response_2": record["rejected"],
            self.verdicts[0]: 1,
            **plain_row(record, reserved),
        }


def _pair(row: Row) -> tuple[str, str]:
    """The keys of the two responses."""
    return _FROM_ZERO if _FROM_ZERO[0] in row else _RESPONSES


def _ids(pair: tuple[str, str]) -> str:
    return " or ".join(key.removeprefix("response_") for key in pair)


def _better(row: Row, pair: tuple[str, str], key: str) -> int:
    """0 or 1: which of the pair a verdict names."""
    ids = [key.removeprefix("response_") for key in pair]
    value = row[key]
    if isinstance(value, bool) or str(value) not in ids:
        raise RowError(f"{key} is {value!r}, expected {_ids(pair)}", "leave rows without a better response out")
    return ids.index(str(value))


def _preference(row: Row, pair: tuple[str, str], verdict: str) -> dict[str, Any]:
    better = _better(row, pair, verdict)
    chosen, rejected = pair[better], pair[1 - better]
    return {"chosen": text(row[chosen], chosen), "rejected": text(row[rejected], rejected)}


def _ranking(row: Row, pair: tuple[str, str], verdict: str) -> dict[str, Any]:
    better = _better(row, pair, verdict)
    said = {name: next((k for k in keys if row.get(k) is not None), None) for name, keys in _ASPECTS.items()}
    judged = {name: _better(row, pair, key) for name, key in said.items() if key is not None}
    return {
        "responses": [text(row[key], key) for key in pair],
        "ranks": [1, 2] if better == 0 else [2, 1],
        "aspects": {name: [float(best == 0), float(best == 1)] for name, best in judged.items()},
    }


_READERS = {"PREFERENCE": _preference, "RANKING": _ranking}
