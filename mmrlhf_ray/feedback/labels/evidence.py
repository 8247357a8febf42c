"""Regions of annotations as part of a record: as data, and as text for a reward model that reads facts."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mmrlhf_ray.feedback.annotations import Annotation
from mmrlhf_ray.feedback.episodes import turn_json
from mmrlhf_ray.feedback.regions import Region

REGION_FACTS = "region_facts"
"""Key in extras of the text about regions of media, for `data.facts_column`; "" where nobody pointed at any."""

ResponseName = str | int
"""What a record calls a response: chosen, rejected, response, or its number in a ranking."""


def regions_of_record(annotations: Iterable[Annotation], names: Mapping[str, ResponseName]) -> Iterator[dict[str, Any]]:
    """Every region that is about the media, or about a response of the record, with the annotation that it is from.

    `names`: text of a response → what the record calls it. A box or range has `medium`, marked text `response`; a claim
    is [response, start, end]. Marks in, and claims of, other responses are left out.
    """
    for annotation in annotations:
        for region in annotation.regions:
            if any(annotation.responses[index] not in names for index in region.responses):
                continue
            named = [names.get(text) for text in annotation.responses]
            place = {"response": named[region.index]} if region.kind == "text" else {"medium": region.index}
            claim = region.claim
            yield {
                "annotation_id": annotation.annotation_id,
                "kind": region.kind,
                **place,
                "extent": list(region.extent),
                "aspect": region.aspect,
                "claim": None if claim is None else [named[claim[0]], claim[1], claim[2]],
                "note": region.note,
            }


def turns_of_record(
    annotations: Iterable[Annotation], names: Mapping[str, ResponseName]
) -> dict[str, list[dict[str, Any]]]:
    """What the record calls a response → its turns, of those that are episodes; `names` as above."""
    return {
        str(names[text]): [turn_json(turn) for turn in turns]
        for annotation in annotations
        for text, turns in zip(annotation.responses, annotation.turns, strict=False)
        if turns and text in names
    }


def region_facts(annotations: Iterable[Annotation]) -> str:
    """A line for every different box and range: where it is, what it is about, and what was noted.

    Marked text says nothing of the media, and is not among them.
    """
    lines = [
        _line(region, annotation)
        for annotation in annotations
        for region in annotation.regions
        if region.kind != "text"
    ]
    return "\n".join(dict.fromkeys(lines))


def _line(region: Region, annotation: Annotation) -> str:
    if region.kind == "box":
        left, top, width, height = (f"{100 * share:.0f}%" for share in region.extent)
        place = f"medium {region.index + 1}, box at {left} {top}, size {width} {height}"
    else:
        start, end = region.extent
        place = f"medium {region.index + 1}, {start:.2f}-{end:.2f} s"
    about = [region.aspect] if region.aspect else []
    if region.claim is not None:
        response, start, end = region.claim
        about.append(f'"{annotation.responses[response][start:end]}"')
    said = " ".join(region.note.split())
    return place + (f" ({', '.join(about)})" if about else "") + (f": {said}" if said else "")
