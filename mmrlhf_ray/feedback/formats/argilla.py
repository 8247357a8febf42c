"""Argilla: records of a data set with its settings, as `to_disk` and `records.to_list` of 2.x write them; 1.x is read.

One data set asks one kind of question about one number of responses, as in Argilla the questions belong to the data
set. User ids are written as they are; Argilla takes answers of its own users only.
"""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from mmrlhf_ray.data.errors import RowError
from mmrlhf_ray.data.formats.base import refuse
from mmrlhf_ray.errors import DataError
from mmrlhf_ray.feedback.annotations import Annotation
from mmrlhf_ray.feedback.formats.common import (
    KEPT,
    NUMBERED,
    WRONG,
    Imported,
    ItemVotes,
    items_of,
    kept_columns,
    listed_choice,
    made_annotation,
    order_of,
    ranks_of,
    rated_response,
    raw_prompt,
    read_exported,
    written_prompt,
)
from mmrlhf_ray.feedback.formats.regions import (
    argilla_questions,
    argilla_regions,
    argilla_values,
    in_argilla,
    with_regions,
)
from mmrlhf_ray.feedback.questions.rate import SCALE

_NAME = "argilla"
_IMAGE = re.compile(r"image_?\d*")


@dataclass(frozen=True)
class ArgillaNames:
    """Names of the fields and questions of a data set. The defaults are those of argilla_datasets()."""

    prompt: str = "messages"
    """Field with the chat, or the text, that was answered."""
    responses: tuple[str, ...] = ()
    """Fields with the responses, in order; None = response_0, response_1, …"""
    questions: Mapping[str, str] = field(
        default_factory=lambda: {
            "preference": "pair",
            "ranking": "rank",
            "correction": "correct",
            "demonstration": "demonstrate",
            "spans": "spans",
            "critique": "critique",
        }
    )
    """Question → pair, rank, correct, demonstrate, spans or critique; others are left alone."""
    ratings: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    """Question → (aspect, number of the response); None = questions called response_<number>_<aspect>."""
    choices: Mapping[str, str] = field(
        default_factory=lambda: {"response_0": "left", "response_1": "right", "tie": "tie", "both_bad": "both_bad"}
    )
    """Label of a pair → left (the first response), right, tie or both_bad."""


@dataclass(frozen=True)
class ArgillaDataset:
    name: str
    settings: dict[str, Any]
    """For `.argilla/settings.json`."""
    records: list[dict[str, Any]]
    """For `records.json`."""


def argilla_datasets(
    annotations: Sequence[Annotation], prompts: pa.Table, media_names: Mapping[str, str]
) -> list[ArgillaDataset]:
    """A data set for each kind of question and number of responses. `media_names`: media_id → URL or data URI.

    Raises DataError that names the item for what Argilla cannot express: sound and video, ties in rankings.
    """
    groups: dict[tuple[str, int], list[ItemVotes]] = defaultdict(list)
    for item in items_of(annotations, prompts):
        groups[item.kind, len(item.responses)].append(item)
    datasets = []
    for (kind, count), items in groups.items():
        try:
            records = [_record(item, media_names) for item in items]
        except RowError as error:
            raise DataError(f"{_NAME}: {error}") from error
        datasets.append(ArgillaDataset(f"{kind}_{count}", _settings(kind, count, items, records), records))
    return datasets


def _record(item: ItemVotes, media_names: Mapping[str, str]) -> dict[str, Any]:
    if item.kind not in _QUESTIONS:
        raise RowError(f"item {item.item_id} is of the kind {item.kind}, which {_NAME} cannot ask", "leave it out")
    asked = written_prompt(item.prompt, media_names, _NAME)
    refuse(any(key.startswith(("audio", "video")) for key in asked), f"sound or video (item {item.item_id})", _NAME)
    responses: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for annotation in item.annotations:
        values = _values(annotation)
        for question, value in values.items():
            responses[question].append({"value": value, "user_id": annotation.annotator_id})
    return {
        "id": item.item_id,
        "status": "completed",
        "fields": asked | {f"response_{i}": text for i, text in enumerate(item.responses)},
        "metadata": {"prompt_id": item.prompt["prompt_id"], "task": item.prompt["task"], KEPT: kept_columns(item)},
        "suggestions": {},
        "responses": dict(responses),
        "vectors": {},
    }


def _values(annotation: Annotation) -> dict[str, Any]:
    """Question → value."""
    values = _QUESTIONS[annotation.kind](annotation) | argilla_values(annotation)
    return values | ({"critique": annotation.critique} if annotation.critique else {})


def _pair_value(annotation: Annotation) -> dict[str, Any]:
    choice = listed_choice(annotation)
    return {"preference": {"left": "response_0", "right": "response_1"}.get(choice, choice)}


def _rating_values(annotation: Annotation) -> dict[str, Any]:
    return {
        f"response_{number}_{aspect}": int(rating)
        for aspect, ratings in annotation.aspects.items()
        for number, rating in enumerate(ratings)
        if rating is not None
    }


_QUESTIONS: Mapping[str, Callable[[Annotation], dict[str, Any]]] = {
    "pair": _pair_value,
    "rank": lambda a: {"ranking": [f"response_{i}" for i in order_of(a, _NAME)]},
    "rate": _rating_values,
    "correct": lambda a: {"correction": a.text},
    "demonstrate": lambda a: {"demonstration": a.text},
    "spans": lambda a: {"spans": [{"start": s, "end": e, "label": note or WRONG} for s, e, note in a.spans]},
    "critique": lambda a: {},
}


def _settings(
    kind: str, count: int, items: Sequence[ItemVotes], records: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    fields = list(dict.fromkeys(name for record in records for name in record["fields"]))
    types = {"messages": {"type": "chat", "use_markdown": False}}
    image = {"type": "image"}
    questions = [
        {"name": name, "title": name, "required": False, "settings": settings}
        for name, settings in _question_settings(kind, count, items)
    ]
    return {
        "guidelines": None,
        "fields": [
            {
                "name": name,
                "title": name,
                "required": not _IMAGE.fullmatch(name),
                "settings": types.get(name, image if _IMAGE.fullmatch(name) else _TEXT),
            }
            for name in fields
        ],
        "questions": questions,
        "metadata": [],
        "vectors": [],
        "allow_extra_metadata": True,
    }


def _question_settings(kind: str, count: int, items: Sequence[ItemVotes]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from _ASKED[kind]([f"response_{i}" for i in range(count)], items)
    yield from argilla_questions([annotation for item in items for annotation in item.annotations])
    yield "critique", _TEXT


def _asked_ratings(names: Sequence[str], items: Sequence[ItemVotes]) -> list[tuple[str, dict[str, Any]]]:
    aspects = dict.fromkeys(aspect for item in items for a in item.annotations for aspect in a.aspects)
    scale = [{"value": value} for value in SCALE]
    return [(f"{name}_{aspect}", {"type": "rating", "options": scale}) for aspect in aspects for name in names]


def _asked_spans(names: Sequence[str], items: Sequence[ItemVotes]) -> list[tuple[str, dict[str, Any]]]:
    notes = dict.fromkeys(note or WRONG for item in items for a in item.annotations for _, _, note in a.spans)
    options = _options(list(notes) or [WRONG])
    return [("spans", {"type": "span", "field": names[0], "options": options, "allow_overlapping": False})]


_TEXT: dict[str, Any] = {"type": "text", "use_markdown": False}
_ASKED: Mapping[str, Callable[[Sequence[str], Sequence[ItemVotes]], list[tuple[str, dict[str, Any]]]]] = {
    "pair": lambda names, items: [
        ("preference", {"type": "label_selection", "options": _options([*names, "tie", "both_bad"])})
    ],
    "rank": lambda names, items: [("ranking", {"type": "ranking", "options": _options(names)})],
    "rate": _asked_ratings,
    "correct": lambda names, items: [("correction", _TEXT)],
    "demonstrate": lambda names, items: [("demonstration", _TEXT)],
    "spans": _asked_spans,
    "critique": lambda names, items: [],
}


def _options(values: Sequence[str]) -> list[dict[str, str]]:
    return [{"value": value, "text": value} for value in values]


def read_argilla(records: Sequence[Mapping[str, Any]], names: ArgillaNames | None = None) -> Imported:
    """Prompts and annotations of records, of 2.x (`responses` by question) or 1.x (a list of `responses`).

    A user's answers of each kind to a record become one annotation; drafts and discarded answers are left out.
    Responses count as shown in the order of their fields. Raises DataError naming the record.
    """
    known = names or ArgillaNames()
    return read_exported(records, lambda record, number: _read_record(record, known, number), f"{_NAME} record")


def _read_record(
    record: Mapping[str, Any], names: ArgillaNames, number: int
) -> tuple[dict[str, Any], list[Annotation], int]:
    fields, metadata = record.get("fields") or {}, dict(record.get("metadata") or {})
    if names.prompt not in fields:
        raise RowError(f"no field {names.prompt!r}, only {sorted(fields)}", "name the prompt's field in ArgillaNames")
    item_id = str(record.get("id") or record.get("external_id") or f"record-{number}")
    kept, prompt_id = metadata.pop(KEPT, None), str(metadata.pop("prompt_id", item_id))
    response_fields = names.responses or tuple(sorted(filter(NUMBERED.fullmatch, fields), key=_number))
    missing = [name for name in response_fields if not isinstance(fields.get(name), str)]
    if missing:
        raise RowError(f"field {missing[0]!r} is not a text", "name the responses' fields in ArgillaNames")
    images = [fields[name] for name in fields if _IMAGE.fullmatch(name) and fields[name] is not None]
    known = {names.prompt, *response_fields, *filter(_IMAGE.fullmatch, fields)}
    extras = metadata | {key: value for key, value in fields.items() if key not in known and value is not None}
    prompt = raw_prompt(prompt_id, fields[names.prompt], {"images": images} if images else {}, extras)
    answers, left_out = _answers(record)
    common = {"kept": kept, "item_id": item_id, "prompt_id": prompt_id}
    texts = [fields[name] for name in response_fields]
    made: list[Annotation] = []
    for who, values in answers.items():
        said = [
            made_annotation(kind, answer, **common, responses=texts, annotator_id=who)
            for kind, answer in _by_kind(values, names, response_fields)
        ]
        regions = argilla_regions(values, response_fields)
        made += with_regions(said, regions, lambda kind: in_argilla, notes=False)
    return prompt, made, left_out


def _number(name: str) -> int:
    found = NUMBERED.fullmatch(name)
    return int(found[1]) if found else 0


def _answers(record: Mapping[str, Any]) -> tuple[dict[str, dict[str, Any]], int]:
    """(user → question → value of what was submitted, how many answers were not)."""
    answers: dict[str, dict[str, Any]] = defaultdict(dict)
    left_out = 0
    responses = record.get("responses") or {}
    if isinstance(responses, list):  # 1.x
        for response in responses:
            if response.get("status", "submitted") != "submitted":
                left_out += 1
                continue
            values = response.get("values") or {}
            answers[str(response.get("user_id"))] |= {name: value["value"] for name, value in values.items()}
        return answers, left_out
    for question, given in responses.items():
        for response in given or ():
            if response.get("status", "submitted") != "submitted":
                left_out += 1
            else:
                answers[str(response.get("user_id"))][question] = response["value"]
    return answers, left_out


def _by_kind(
    values: Mapping[str, Any], names: ArgillaNames, response_fields: Sequence[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    kinds = {names.questions[name]: value for name, value in values.items() if name in names.questions}
    critique = kinds.pop("critique", "")
    beside = {"critique": critique} if critique else {}
    ratings: list[dict[str, Any]] = [{} for _ in response_fields]
    for name, value in values.items():
        target = rated_response(name, names.ratings, len(ratings))
        if target is not None:
            ratings[target[1]][target[0]] = value
    if any(ratings):
        kinds["rate"] = ratings
    for kind, value in kinds.items():
        yield kind, _READERS[kind](value, names, response_fields) | beside
    if critique and not kinds:
        yield "critique", {"text": critique}


def _read_pair(value: Any, names: ArgillaNames, response_fields: Sequence[str]) -> dict[str, Any]:
    if value not in names.choices or len(response_fields) != 2:
        raise RowError(
            f"the choice is {value!r} among {len(response_fields)} responses, expected one of {sorted(names.choices)} "
            "among 2",
            "name labels and responses in ArgillaNames",
        )
    return {"choice": names.choices[value]}


def _read_rank(value: Any, names: ArgillaNames, response_fields: Sequence[str]) -> dict[str, Any]:
    """A list from the best to the worst, or (1.x) {"value", "rank"} with ties."""
    if not all(isinstance(entry, Mapping) and "rank" in entry for entry in value):
        order = [entry["value"] if isinstance(entry, Mapping) else entry for entry in value]
        return {"ranks": ranks_of(order, response_fields, "the ranking")}
    given = {entry["value"]: entry["rank"] for entry in value}
    if sorted(given) != sorted(response_fields):
        raise RowError(f"the ranking has {sorted(given)}, expected {sorted(response_fields)}", "name the responses")
    return {"ranks": [given[name] for name in response_fields]}


def _read_spans(value: Any, names: ArgillaNames, response_fields: Sequence[str]) -> dict[str, Any]:
    return {"spans": [[s["start"], s["end"], "" if s["label"] == WRONG else s["label"]] for s in value]}


_READERS: Mapping[str, Callable[[Any, ArgillaNames, Sequence[str]], dict[str, Any]]] = {
    "pair": _read_pair,
    "rank": _read_rank,
    "rate": lambda value, names, fields: {"ratings": value},
    "correct": lambda value, names, fields: {"text": value},
    "demonstrate": lambda value, names, fields: {"text": value},
    "spans": _read_spans,
}


def argilla_files(dataset: ArgillaDataset) -> dict[str, str]:
    """Path within the data set's directory → content."""
    return {
        ".argilla/settings.json": json.dumps(dataset.settings, ensure_ascii=False, indent=2),
        "records.json": json.dumps(dataset.records, ensure_ascii=False, indent=2),
    }
