"""align-anything: a question, two responses and which of them is better; safety rows name two verdicts."""

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
_HELPFUL, _SAFER, _OVERALL = "more_helpful_response_id", "safer_response_id", "overall_response"
_MEDIA = {"image": "images", "audio_path": "audios", "video_path": "videos"}
_ASKED = ("question", "prompt")
_ALL_VERDICTS = (_OVERALL, _HELPFUL, _SAFER)
_ASPECTS = {"helpful": _HELPFUL, "safe": _SAFER}


@dataclass(frozen=True)
class AlignAnything:
    """`verdicts`: keys that say which response is better, the first that a row has counts."""

    name: str = "align_anything"
    verdicts: tuple[str, ...] = (_OVERALL, _HELPFUL)
    reads: frozenset[Kind] = frozenset({"PROMPT", "PREFERENCE", "RANKING"})
    writes: frozenset[Kind] = frozenset({"PREFERENCE"})
    embeds: Embedding = "feature"
    parquet: bool = True
    objects: frozenset[str] = frozenset()

    keys: frozenset[str] = frozenset((*_ASKED, *_RESPONSES, *_MEDIA, *_ALL_VERDICTS))
    one_or_several: frozenset[str] = frozenset()

    def matches(self, row: Row) -> bool:
        verdict = next((key for key in _ALL_VERDICTS if key in row), None)
        return row.keys() >= set(_RESPONSES) and verdict in self.verdicts

    def read(self, row: Row, kind: Kind) -> dict[str, Any]:
        require(row, _RESPONSES, self.name)
        asked = one_of(row, _ASKED)
        used = [asked, *_MEDIA]
        answers: dict[str, Any] = {}
        if kind != "PROMPT":
            verdict = next((key for key in self.verdicts if row.get(key) is not None), None)
            if verdict is None:
                raise RowError(f"{' and '.join(self.verdicts)} missing", "say which response is better, 1 or 2")
            answers = _READERS[kind](row, verdict)
            used += [*_RESPONSES, verdict, *(_ASPECTS.values() if kind == "RANKING" else ())]
        lists = media_lists({key: row[key] for key in _MEDIA if key in row}, _MEDIA)
        return raw_row(row, used, prompt=text(row[asked], asked), **lists, **answers)

    def write(self, record: Row, kind: Kind, media_names: MediaNames) -> dict[str, Any]:
        refuse(record["margin"] != 0, f"margin {record['margin']:g}", self.name)
        lists = written_media(record, media_names)
        refuse(len(lists) > 1 or any(len(items) > 1 for items in lists.values()), "more than one medium", self.name)
        reserved = (*_ASKED, *_RESPONSES, *_MEDIA, self.verdicts[0])
        return {
            "question" if "images" in lists else "prompt": one_question(record, self.name),
            **{key: lists[name][0] for key, name in _MEDIA.items() if name in lists},
            "response_1": record["chosen"],
            "response_2": record["rejected"],
            self.verdicts[0]: 1,
            **plain_row(record, reserved),
        }


def _verdict(row: Row, key: str) -> int:
    value = row[key]
    if value not in (1, 2, "1", "2") or isinstance(value, bool):
        raise RowError(f"{key} is {value!r}, expected 1 or 2", "leave rows without a better response out")
    return int(value)


def _response(row: Row, number: int) -> str:
    key = f"response_{number}"
    return text(row[key], key)


def _preference(row: Row, verdict: str) -> dict[str, Any]:
    better = _verdict(row, verdict)
    return {"chosen": _response(row, better), "rejected": _response(row, 3 - better)}


def _ranking(row: Row, verdict: str) -> dict[str, Any]:
    better = _verdict(row, verdict)
    judged = {name: _verdict(row, key) for name, key in _ASPECTS.items() if row.get(key) is not None}
    return {
        "responses": [_response(row, 1), _response(row, 2)],
        "ranks": [1, 2] if better == 1 else [2, 1],
        "aspects": {name: [float(best == 1), float(best == 2)] for name, best in judged.items()},
    }


_READERS = {"PREFERENCE": _preference, "RANKING": _ranking}
