"""Regions in the files of annotation tools: what a tool has a place for, and how it is put together again.

Claims have no place in any of them. All regions travel in the key `mmrlhf` as well; of those that the tool can show,
what came back from it decides.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import isclose
from typing import Any

from mmrlhf_ray.data.formats.chat import record_chat
from mmrlhf_ray.feedback.annotations import Annotation
from mmrlhf_ray.feedback.formats.offsets import characters, utf16
from mmrlhf_ray.feedback.regions import Region

VOTE = "vote"
"""Label of a region that is about no aspect in particular."""

_TAG = re.compile(r"<(image|audio|video)>")
_ROUNDING = 1e-6


def media_keys(prompt: Mapping[str, Any]) -> list[str]:
    """How written_prompt() calls each medium of a PROMPT row, in order: image_0, audio_0, image_1, …"""
    parts = [part for message in record_chat(prompt) for part in message["content"]]
    return _numbered([part["type"] for part in parts if part["type"] != "text"])


def media_keys_in(asked: Any, named: Sequence[str]) -> list[str]:
    """The same of a row that was read: by the tags in its text, or where it has none as `named`, by kind."""
    turns = asked if isinstance(asked, list) else [{"content": asked}]
    tags = [tag for turn in turns for tag in _TAG.findall(str(turn.get("content")))]
    kinds = ("image", "audio", "video")
    return _numbered(tags) if tags else sorted(named, key=lambda key: kinds.index(key.rstrip("_0123456789")))


def _numbered(kinds: Sequence[str]) -> list[str]:
    seen: Counter[str] = Counter()
    keys = []
    for kind in kinds:
        keys.append(f"{kind}_{seen[kind]}")
        seen[kind] += 1
    return keys


def merged(
    kept: Sequence[Region], found: Sequence[Region], holds: Callable[[Region], bool], *, notes: bool
) -> tuple[Region, ...]:
    """The regions of an answer that went through a tool: those that it has no place for, those that came back, with
    their claims, and those that are new. `notes`: whether the tool has a place for notes."""
    new = list(found)
    regions = []
    for region in kept:
        if holds(region):
            back = next((other for other in new if _same(region, other, notes)), None)
            if back is None:
                continue
            new.remove(back)
        regions.append(region)
    return (*regions, *new)


def with_regions(
    said: Sequence[Annotation],
    found: Sequence[Region],
    holds: Callable[[str], Callable[[Region], bool]],
    *,
    notes: bool,
) -> list[Annotation]:
    """The annotations that somebody's answers to one row became, with the regions found there in the first of them.

    `holds`: kind of question → whether the tool has a place for a region; see merged().
    """
    if not said:
        return []
    first, *others = said
    return [replace(first, regions=merged(first.regions, found, holds(first.kind), notes=notes)), *others]


def _same(region: Region, other: Region, notes: bool) -> bool:
    plain = replace(region, claim=None, extent=(), note=region.note if notes else "")
    near = all(isclose(a, b, abs_tol=_ROUNDING) for a, b in zip(region.extent, other.extent, strict=False))
    return near and plain == replace(other, extent=())


def in_argilla(region: Region) -> bool:
    """Argilla marks text of its fields, and nothing in media."""
    return region.kind == "text"


def argilla_values(annotation: Annotation) -> dict[str, list[dict[str, Any]]]:
    """Question → spans, one question for each response with marked text."""
    values: dict[str, list[dict[str, Any]]] = {}
    for region in filter(in_argilla, annotation.regions):
        start, end = region.extent
        span = {"start": int(start), "end": int(end), "label": region.aspect or VOTE}
        values.setdefault(f"regions_response_{region.index}", []).append(span)
    return values


def argilla_questions(annotations: Sequence[Annotation]) -> list[tuple[str, dict[str, Any]]]:
    """(name, settings) of the questions that argilla_values() answers."""
    values = [(name, spans) for a in annotations for name, spans in argilla_values(a).items()]
    questions = []
    for name in sorted({name for name, _ in values}):
        labels = sorted({span["label"] for other, spans in values if other == name for span in spans})
        options = [{"value": label, "text": label} for label in labels]
        field = name.removeprefix("regions_")
        questions.append((name, {"type": "span", "field": field, "options": options, "allow_overlapping": True}))
    return questions


def argilla_regions(values: Mapping[str, Any], fields: Sequence[str]) -> list[Region]:
    """The regions of one user's answers; `fields`: those with the responses, in order."""
    return [
        Region("text", number, (span["start"], span["end"]), "" if span["label"] == VOTE else span["label"])
        for number, field in enumerate(fields)
        for span in values.get(f"regions_{field}") or ()
    ]


def in_label_studio(kind: str, keys: Sequence[str]) -> Callable[[Region], bool]:
    """Label Studio's place for a region of an answer to a question of this kind: boxes, ranges of sounds, and text but
    in a Ranker. It counts clips in frames, which are not seconds."""

    def holds(region: Region) -> bool:
        if region.kind == "text":
            return kind != "rank"
        return not keys[region.index].startswith("video")

    return holds


def label_studio_results(annotation: Annotation, keys: Sequence[str]) -> list[dict[str, Any]]:
    """Results of the regions that Label Studio has a place for, each with its note."""
    holds = in_label_studio(annotation.kind, keys)
    results = []
    for number, region in enumerate(filter(holds, annotation.regions)):
        target = f"response_{region.index}" if region.kind == "text" else keys[region.index]
        type_ = "rectanglelabels" if region.kind == "box" else "labels"
        value = _label_studio_value(annotation, region) | {type_: [region.aspect or VOTE]}
        common = {"id": f"region{number}", "to_name": target}
        results.append(common | {"from_name": f"region_{target}", "type": type_, "value": value})
        if region.note:
            noted = {"from_name": f"note_{target}", "type": "textarea", "value": {"text": [region.note]}}
            results.append(common | noted)
    return results


def _label_studio_value(annotation: Annotation, region: Region) -> dict[str, Any]:
    if region.kind == "box":
        names = ("x", "y", "width", "height")
        return {name: 100 * share for name, share in zip(names, region.extent, strict=True)} | {"rotation": 0}
    start, end = region.extent
    if region.kind == "range":
        return {"start": start, "end": end, "channel": 0}
    text, first, last = annotation.responses[region.index], int(start), int(end)
    return {"start": utf16(text[:first]), "end": utf16(text[:last]), "text": text[first:last]}


def label_studio_regions(
    results: Sequence[Mapping[str, Any]], keys: Sequence[str], ids: Sequence[str], texts: Sequence[str]
) -> list[Region]:
    """The regions among an annotation's results, those of other people's projects too: rectangles of images, labelled
    ranges of sounds, and text that a control called region_<response> marks."""
    notes = {
        result.get("id"): "\n".join(result["value"].get("text") or ())
        for result in results
        if result.get("type") == "textarea" and str(result.get("from_name")).startswith("note_")
    }
    regions = []
    for result in results:
        value, target, control = result.get("value") or {}, result.get("to_name"), str(result.get("from_name"))
        label = (value.get("rectanglelabels") or value.get("labels") or [VOTE])[0]
        aspect, note = "" if label == VOTE else str(label), notes.get(result.get("id"), "")
        if result.get("type") == "rectanglelabels" and target in keys:
            extent = tuple(float(value[name]) / 100 for name in ("x", "y", "width", "height"))
            regions.append(Region("box", keys.index(target), extent, aspect, None, note))
        elif result.get("type") == "labels" and target in keys:
            regions.append(
                Region("range", keys.index(target), (float(value["start"]), float(value["end"])), aspect, None, note)
            )
        elif result.get("type") == "labels" and target in ids and control == f"region_{target}":
            number = ids.index(target)
            regions.append(Region("text", number, characters(texts[number], value), aspect, None, note))
    return regions
