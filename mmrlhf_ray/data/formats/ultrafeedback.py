"""UltraFeedback and VLFeedback: several completions, each rated by aspect with a rationale."""

import json
from collections.abc import Mapping, Sequence
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
)
from mmrlhf_ray.data.formats.chat import media_lists, one_question, written_media
from mmrlhf_ray.data.validate import text

_KEYS = ("instruction", "prompt", "image", "completions")
_OVERALL = "overall_score"
_REST = "completions"
"""Extra that keeps what a completion has besides its response and ratings: model, rationales, critique, …"""


@dataclass(frozen=True)
class UltraFeedback:
    name: str = "ultrafeedback"
    reads: frozenset[Kind] = frozenset({"PROMPT", "PREFERENCE", "RANKING"})
    writes: frozenset[Kind] = frozenset({"RANKING"})
    embeds: Embedding = "feature"
    parquet: bool = True
    objects: frozenset[str] = frozenset()

    keys: frozenset[str] = frozenset(_KEYS)
    one_or_several: frozenset[str] = frozenset()

    def matches(self, row: Row) -> bool:
        return "completions" in row and ("instruction" in row or "prompt" in row)

    def read(self, row: Row, kind: Kind) -> dict[str, Any]:
        completions = _completions(row.get("completions"))
        asked = one_of(row, ("instruction", "prompt"))
        lists = media_lists({"image": row.get("image")}, {"image": "images"})
        answers = _READERS[kind](completions)
        return raw_row(row, (asked, "image", "completions"), prompt=text(row[asked], asked), **lists, **answers)

    def write(self, record: Row, kind: Kind, media_names: MediaNames) -> dict[str, Any]:
        refuse(bool(record["ranks"]), "ranks, only ratings", self.name)
        lists = written_media(record, media_names)
        images = lists.pop("images", [])
        refuse(bool(lists) or len(images) > 1, "media other than one image", self.name)
        question = one_question(record, self.name)
        row = plain_row(record, (*_KEYS, "response"), taken=(_REST,))
        return {
            "prompt" if images else "instruction": question,
            **({"image": images[0]} if images else {}),
            "completions": _written(record, self.name),
            **row,
        }


def _completions(value: Any) -> list[dict[str, Any]]:
    """The list of completions, also where a library keeps it as an object of lists."""
    if isinstance(value, Mapping):
        columns = {key: item for key, item in value.items() if isinstance(item, list)}
        if columns.keys() != value.keys() or len({len(item) for item in columns.values()}) > 1:
            raise RowError("completions is an object of unequal lists", "give a list of completions")
        value = [dict(zip(columns, items, strict=True)) for items in zip(*columns.values(), strict=True)]
    if not isinstance(value, list) or not value:
        raise RowError(
            "completions is not a non-empty list", 'write "completions": [{"response": …, "annotations": …}]'
        )
    for index, completion in enumerate(value):
        if not isinstance(completion, Mapping) or not isinstance(completion.get("response"), str):
            raise RowError(f"completions[{index}] has no response", "give each completion its text in response")
    return [{key: item for key, item in completion.items() if item is not None} for completion in value]


def _ranking(completions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    ratings = [_ratings(completion, f"completions[{i}]") for i, completion in enumerate(completions)]
    names = list(dict.fromkeys(name for of_one in ratings for name in of_one))
    rest = [_rest(completion) for completion in completions]
    return {
        "responses": [completion["response"] for completion in completions],
        "aspects": {name: [of_one.get(name) for of_one in ratings] for name in names},
        "extras": {_REST: rest} if any(rest) else None,
    }


def _preference(completions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Best against worst by overall_score, or by the mean of the ratings where there is none; margin = difference."""
    scores = [_overall(completion, f"completions[{i}]") for i, completion in enumerate(completions)]
    best, worst = max(scores), min(scores)
    if best == worst:
        raise RowError("no completion is better than another overall", "read such rows as rankings, or leave them out")
    chosen, rejected = (completions[scores.index(score)]["response"] for score in (best, worst))
    return {"chosen": chosen, "rejected": rejected, "margin": best - worst, "extras": {_REST: list(completions)}}


def _prompt(completions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {"extras": {_REST: list(completions)}}


_READERS = {"RANKING": _ranking, "PREFERENCE": _preference, "PROMPT": _prompt}


def _annotations(completion: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    annotations = completion.get("annotations", {})
    if not isinstance(annotations, Mapping):
        raise RowError(f"{where}.annotations is a {type(annotations).__name__}", "give an object of aspects")
    return annotations


def _ratings(completion: Mapping[str, Any], where: str) -> dict[str, float | None]:
    """aspect → rating, overall_score among them."""
    ratings: dict[str, float | None] = {}
    for aspect, about in _annotations(completion, where).items():
        if about is None:
            continue
        if not isinstance(about, Mapping):
            raise RowError(f"{where}.annotations.{aspect} is not an object", 'write {"Rating": …, "Rationale": …}')
        ratings[aspect] = _number(about.get("Rating"), f"{where}.annotations.{aspect}.Rating")
    if _OVERALL in completion:
        ratings[_OVERALL] = _number(completion[_OVERALL], f"{where}.{_OVERALL}")
    return ratings


def _overall(completion: Mapping[str, Any], where: str) -> float:
    ratings = _ratings(completion, where)
    overall = ratings.pop(_OVERALL, None)
    if overall is not None:
        return overall
    known = [rating for rating in ratings.values() if rating is not None]
    if not known:
        raise RowError(f"{where} has no rating", "rate each completion, or leave the row out")
    return sum(known) / len(known)


def _number(value: Any, where: str) -> float | None:
    """A rating, which many files hold as text; N/A is none."""
    if value in (None, "", "N/A"):
        return None
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise RowError(
            f"{where} is {value!r}, expected a number", "give a number, or null where nobody rated"
        ) from error


def _rest(completion: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that are neither response nor rating."""
    annotations = {
        aspect: {key: value for key, value in about.items() if key != "Rating" and value is not None}
        for aspect, about in _annotations(completion, "completion").items()
        if isinstance(about, Mapping)
    }
    annotations = {aspect: about for aspect, about in annotations.items() if about}
    rest = {key: value for key, value in completion.items() if key not in ("response", "annotations", _OVERALL)}
    return rest | ({"annotations": annotations} if annotations else {})


def _written(record: Row, name: str) -> list[dict[str, Any]]:
    responses, aspects = record["responses"], json.loads(record["aspects"])
    rest = json.loads(record["extras"]).get(_REST, [{}] * len(responses))
    fits = isinstance(rest, list) and len(rest) == len(responses) and all(isinstance(item, dict) for item in rest)
    refuse(not fits, f"an extra {_REST} that is not one object for each response", name)
    completions = []
    for number, (response, other) in enumerate(zip(responses, rest, strict=True)):
        annotations = {aspect: dict(about) for aspect, about in other.get("annotations", {}).items()}
        for aspect, ratings in aspects.items():
            if aspect != _OVERALL:
                annotations[aspect] = {"Rating": ratings[number], **annotations.get(aspect, {})}
        overall = aspects.get(_OVERALL, [None] * len(responses))[number]
        completions.append(
            {key: value for key, value in other.items() if key != "annotations"}
            | {"response": response, "annotations": annotations}
            | ({_OVERALL: overall} if overall is not None else {})
        )
    return completions
