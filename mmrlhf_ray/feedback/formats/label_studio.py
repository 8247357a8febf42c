"""Label Studio: tasks with their annotations (the JSON export), and the labelling configuration that asks for them."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from xml.etree import ElementTree as ET

import pyarrow as pa

from mmrlhf_ray.data.errors import RowError
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
from mmrlhf_ray.feedback.formats.offsets import characters, utf16
from mmrlhf_ray.feedback.formats.regions import (
    VOTE,
    in_label_studio,
    label_studio_regions,
    label_studio_results,
    media_keys,
    media_keys_in,
    with_regions,
)
from mmrlhf_ray.feedback.questions.rate import SCALE

_NAME = "label_studio"
_MEDIA = re.compile(r"(image|audio|video)_?\d*")

Result = dict[str, Any]


@dataclass(frozen=True)
class LabelStudioNames:
    """Names of a project's data and controls. The defaults are those of label_studio_tasks()."""

    prompt: str = "messages"
    """Key of `data` with the chat, or the text, that was answered."""
    responses: tuple[str, ...] = ()
    """Keys of `data` with the responses, in order; None = response_0, response_1, …"""
    items: str = "items"
    """Key of `data` with the list of {"id", "body"} that a Ranker ranks."""
    controls: Mapping[str, str] = field(
        default_factory=lambda: {
            "preference": "pair",
            "verdict": "pair",
            "ranking": "rank",
            "correction": "correct",
            "demonstration": "demonstrate",
            "spans": "spans",
            "critique": "critique",
        }
    )
    """Control (`from_name`) → pair, rank, correct, demonstrate, spans or critique; others are left alone."""
    ratings: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    """Control → (aspect, number of the response); None = controls called response_<number>_<aspect>."""


def label_studio_tasks(
    annotations: Sequence[Annotation], prompts: pa.Table, media_names: Mapping[str, str]
) -> list[dict[str, Any]]:
    """A task for each item, with its annotations. `media_names`: media_id → URL or data URI.

    Raises DataError that names the item for what Label Studio cannot express: ties in rankings.
    """
    tasks = []
    for item in items_of(annotations, prompts):
        try:
            tasks.append(_task(item, media_names))
        except RowError as error:
            raise DataError(f"{_NAME}, item {item.item_id}: {error}") from error
    return tasks


def _task(item: ItemVotes, media_names: Mapping[str, str]) -> dict[str, Any]:
    if item.kind not in _RESULTS:
        raise RowError(f"it is of the kind {item.kind}, which {_NAME} cannot ask", "leave it out")
    data = written_prompt(item.prompt, media_names, _NAME)
    data |= {f"response_{i}": text for i, text in enumerate(item.responses)}
    if item.kind == "rank":
        data["items"] = [{"id": f"response_{i}", "title": "", "body": text} for i, text in enumerate(item.responses)]
    known = {"prompt_id": item.prompt["prompt_id"], "task": item.prompt["task"], "item_id": item.item_id}
    made = []
    for annotation in item.annotations:
        results = [*_RESULTS[item.kind](annotation), *label_studio_results(annotation, media_keys(item.prompt))]
        if annotation.critique:
            results.append(_result("critique", "messages", "textarea", {"text": [annotation.critique]}))
        made.append(
            {
                "completed_by": annotation.annotator_id,
                "was_cancelled": False,
                "lead_time": annotation.milliseconds / 1000,
                "result": [{"id": f"r{i}"} | result for i, result in enumerate(results)],
            }
        )
    return {"data": data | known | {KEPT: kept_columns(item)}, "annotations": made, "predictions": []}


def _result(control: str, target: str, kind: str, value: Mapping[str, Any]) -> Result:
    return {"from_name": control, "to_name": target, "type": kind, "value": dict(value)}


def _pair_results(annotation: Annotation) -> list[Result]:
    choice = listed_choice(annotation)
    if choice in ("left", "right"):
        return [_result("preference", "response_0,response_1", "pairwise", {"selected": choice})]
    return [_result("verdict", "response_0", "choices", {"choices": [choice]})]  # Pairwise knows no third answer


def _rating_results(annotation: Annotation) -> list[Result]:
    return [
        _result(f"response_{number}_{aspect}", f"response_{number}", "rating", {"rating": int(rating)})
        for aspect, ratings in annotation.aspects.items()
        for number, rating in enumerate(ratings)
        if rating is not None
    ]


def _span_results(annotation: Annotation) -> list[Result]:
    text = annotation.shown
    return [
        _result(
            "spans",
            "response_0",
            "labels",
            {
                "start": utf16(text[:start]),
                "end": utf16(text[:end]),
                "text": text[start:end],
                "labels": [note or WRONG],
            },
        )
        for start, end, note in annotation.spans
    ]


def _rank_results(annotation: Annotation) -> list[Result]:
    order = [f"response_{i}" for i in order_of(annotation, _NAME)]
    return [_result("ranking", "responses", "ranker", {"ranker": order})]


def _text_results(control: str, target: str) -> Callable[[Annotation], list[Result]]:
    return lambda annotation: [_result(control, target, "textarea", {"text": [annotation.text]})]


_RESULTS: Mapping[str, Callable[[Annotation], list[Result]]] = {
    "pair": _pair_results,
    "rank": _rank_results,
    "rate": _rating_results,
    "correct": _text_results("correction", "response_0"),
    "demonstrate": _text_results("demonstration", "messages"),
    "spans": _span_results,
    "critique": lambda annotation: [],
}


def label_studio_config(task: Mapping[str, Any], kind: str, aspects: Sequence[str] = ()) -> str:
    """The labelling configuration (XML) of a project for tasks like this one of label_studio_tasks(). `aspects`: of
    ratings, and of regions."""
    view = ET.Element("View")
    data = task["data"]
    ET.SubElement(view, "Paragraphs", name="messages", value="$messages", nameKey="role", textKey="content")
    for key in data:
        if found := _MEDIA.fullmatch(key):
            ET.SubElement(view, found[1].capitalize(), name=key, value=f"${key}")
    names = [key for key in data if NUMBERED.fullmatch(key)]
    if kind != "rank":  # a Ranker shows them itself
        for name in names:
            ET.SubElement(view, "Text", name=name, value=f"${name}")
    _CONTROLS[kind](view, names, aspects)
    _region_controls(view, [key for key in data if _MEDIA.fullmatch(key)], names if kind != "rank" else (), aspects)
    ET.SubElement(view, "TextArea", name="critique", toName="messages", rows="4", maxSubmissions="1")
    ET.indent(view)
    return ET.tostring(view, encoding="unicode")


def _region_controls(view: ET.Element, media: Sequence[str], names: Sequence[str], aspects: Sequence[str]) -> None:
    """What marks places in media and responses, each with a note; clips have none, as they are counted in frames."""
    for target in (*media, *names):
        if target.startswith("video"):
            continue
        control = "RectangleLabels" if target.startswith("image") else "Labels"
        labels = ET.SubElement(view, control, name=f"region_{target}", toName=target)
        for label in (VOTE, *aspects):
            ET.SubElement(labels, "Label", value=label)
        ET.SubElement(view, "TextArea", name=f"note_{target}", toName=target, perRegion="true")


def _pair_controls(view: ET.Element, names: Sequence[str], aspects: Sequence[str]) -> None:
    ET.SubElement(view, "Pairwise", name="preference", toName=",".join(names))
    verdict = ET.SubElement(view, "Choices", name="verdict", toName=names[0], choice="single")
    for choice in ("tie", "both_bad"):
        ET.SubElement(verdict, "Choice", value=choice)


def _rank_controls(view: ET.Element, names: Sequence[str], aspects: Sequence[str]) -> None:
    ET.SubElement(view, "List", name="responses", value="$items", title="Responses")
    ET.SubElement(view, "Ranker", name="ranking", toName="responses")


def _rating_controls(view: ET.Element, names: Sequence[str], aspects: Sequence[str]) -> None:
    for name in names:
        for aspect in aspects:
            ET.SubElement(view, "Rating", name=f"{name}_{aspect}", toName=name, maxRating=str(SCALE[-1]))


def _span_controls(view: ET.Element, names: Sequence[str], aspects: Sequence[str]) -> None:
    ET.SubElement(ET.SubElement(view, "Labels", name="spans", toName=names[0]), "Label", value=WRONG)


def _text_control(control: str, target: str) -> Callable[[ET.Element, Sequence[str], Sequence[str]], None]:
    def add(view: ET.Element, names: Sequence[str], aspects: Sequence[str]) -> None:
        ET.SubElement(view, "TextArea", name=control, toName=target, rows="4", maxSubmissions="1")

    return add


_CONTROLS: Mapping[str, Callable[[ET.Element, Sequence[str], Sequence[str]], None]] = {
    "pair": _pair_controls,
    "rank": _rank_controls,
    "rate": _rating_controls,
    "correct": _text_control("correction", "response_0"),
    "demonstrate": _text_control("demonstration", "messages"),
    "spans": _span_controls,
    "critique": lambda view, names, aspects: None,
}


def read_label_studio(tasks: Sequence[Mapping[str, Any]], names: LabelStudioNames | None = None) -> Imported:
    """Prompts and annotations of an export in the format JSON.

    What somebody says of each kind in one task becomes one annotation; cancelled annotations are left out, predictions
    not read. Responses count as shown in the order of their keys. Raises DataError naming the task.
    """
    known = names or LabelStudioNames()
    return read_exported(tasks, lambda task, number: _read_task(task, known, number), f"{_NAME} task")


def _read_task(
    task: Mapping[str, Any], names: LabelStudioNames, number: int
) -> tuple[dict[str, Any], list[Annotation], int]:
    data = dict(task.get("data") or {})
    if names.prompt not in data:
        raise RowError(f"data has no {names.prompt!r}, only {sorted(data)}", "name the key in LabelStudioNames.prompt")
    item_id = str(data.pop("item_id", task.get("id", f"task-{number}")))
    kept, prompt_id = data.pop(KEPT, None), str(data.pop("prompt_id", item_id))
    ids, texts = _responses(data, names)
    media: dict[str, list[Any]] = defaultdict(list)
    named = [key for key in data if _MEDIA.fullmatch(key) and data[key] is not None]
    for key in list(data):
        if (found := _MEDIA.fullmatch(key)) and data[key] is not None:
            media[f"{found[1]}s"].append(data.pop(key))
    asked = data.pop(names.prompt)
    keys = media_keys_in(asked, named)
    extras = {key: value for key, value in data.items() if key not in (*ids, names.items) and value is not None}
    prompt = raw_prompt(prompt_id, asked, media, extras)
    made, left_out = [], 0
    for annotation in task.get("annotations") or ():
        if annotation.get("was_cancelled"):
            left_out += 1
            continue
        columns = {
            "milliseconds": round(1000 * (annotation.get("lead_time") or 0)),
            "created": annotation.get("created_at") or "",
        }
        results = annotation.get("result") or ()
        said = [
            made_annotation(
                kind,
                answer,
                kept=kept,
                item_id=item_id,
                prompt_id=prompt_id,
                responses=texts,
                annotator_id=_who(annotation.get("completed_by")),
                **columns,
            )
            for kind, answer in _by_kind(results, names, ids, texts)
        ]
        regions = label_studio_regions(results, keys, ids, texts)
        made += with_regions(said, regions, lambda kind: in_label_studio(kind, keys), notes=True)
    return prompt, made, left_out


def _who(completed_by: Any) -> str:
    """An id, or an object with one."""
    if isinstance(completed_by, Mapping):
        return str(completed_by.get("email") or completed_by.get("id"))
    return str(completed_by)


def _responses(data: Mapping[str, Any], names: LabelStudioNames) -> tuple[list[str], list[str]]:
    """(what results call the responses, their texts)."""
    items = data.get(names.items)
    keys = list(names.responses) or sorted(filter(NUMBERED.fullmatch, data), key=lambda key: int(key.split("_")[1]))
    if not keys and isinstance(items, list):
        return [str(item["id"]) for item in items], [str(item.get("body") or item.get("title")) for item in items]
    missing = [key for key in keys if not isinstance(data.get(key), str)]
    if missing:
        raise RowError(f"data[{missing[0]!r}] is not a text", "name the keys in LabelStudioNames.responses")
    return keys, [data[key] for key in keys]


def _by_kind(
    results: Sequence[Mapping[str, Any]], names: LabelStudioNames, ids: Sequence[str], texts: Sequence[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    ratings: list[dict[str, Any]] = [{} for _ in ids]
    for result in results:
        control = str(result.get("from_name"))
        target = rated_response(control, names.ratings, len(ratings)) if result.get("type") == "rating" else None
        if target is not None:
            ratings[target[1]][target[0]] = result["value"]["rating"]
        elif control in names.controls:
            found[names.controls[control]].append(result["value"])
    critique = "\n".join(_text(value) for value in found.pop("critique", ()))
    beside = {"critique": critique} if critique else {}
    if any(ratings):
        yield "rate", {"ratings": ratings} | beside
    for kind, values in found.items():
        yield kind, _READERS[kind](values, ids, texts) | beside
    if critique and not found and not any(ratings):
        yield "critique", {"text": critique}


def _text(value: Mapping[str, Any]) -> str:
    text = value.get("text")
    return "\n".join(text) if isinstance(text, list) else str(text)


def _read_pair(values: Sequence[Mapping[str, Any]], ids: Sequence[str], texts: Sequence[str]) -> dict[str, Any]:
    said = [value.get("selected") or (value.get("choices") or [None])[0] for value in values]
    if len(ids) != 2 or len(said) != 1 or said[0] not in ("left", "right", "tie", "both_bad"):
        raise RowError(
            f"a pair of {len(ids)} responses was answered {said}, expected left, right, tie or both_bad, once",
            "name two responses, and controls that compare them",
        )
    return {"choice": said[0]}


def _read_rank(values: Sequence[Mapping[str, Any]], ids: Sequence[str], texts: Sequence[str]) -> dict[str, Any]:
    """A list, or buckets of which all but the unsorted "_" are empty save one."""
    ranked = values[-1]["ranker"]
    if isinstance(ranked, Mapping):
        filled = [bucket for bucket in ranked.values() if bucket]
        if len(filled) != 1:
            raise RowError(f"the ranking has {len(filled)} filled buckets, expected one", "rank all into one bucket")
        ranked = filled[0]
    return {"ranks": ranks_of(ranked, ids, "the ranking")}


def _read_spans(values: Sequence[Mapping[str, Any]], ids: Sequence[str], texts: Sequence[str]) -> dict[str, Any]:
    if len(texts) != 1:
        raise RowError(f"spans of {len(texts)} responses", "give one response to a task that marks spans")
    spans = []
    for value in values:
        start, end = characters(texts[0], value)
        label = (value.get("labels") or value.get("hypertextlabels") or [WRONG])[0]
        spans.append([start, end, "" if label == WRONG else label])
    return {"spans": sorted(spans)}


def _read_text(values: Sequence[Mapping[str, Any]], ids: Sequence[str], texts: Sequence[str]) -> dict[str, Any]:
    return {"text": _text(values[-1])}


_READERS: Mapping[str, Callable[..., dict[str, Any]]] = {
    "pair": _read_pair,
    "rank": _read_rank,
    "correct": _read_text,
    "demonstrate": _read_text,
    "spans": _read_spans,
}
