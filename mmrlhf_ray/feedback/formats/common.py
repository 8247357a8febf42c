"""Shared by the formats of annotation tools: items with their votes, and the columns that tools have no place for."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa

from mmrlhf_ray.data.errors import RowError
from mmrlhf_ray.data.formats.chat import lead_with_media, record_chat, split_tags, tagged_text, written_media
from mmrlhf_ray.data.validate import MEDIA_LISTS
from mmrlhf_ray.errors import DataError
from mmrlhf_ray.feedback.annotations import Annotation, Ratings, columns_of_answer
from mmrlhf_ray.feedback.episodes import turn_json, turn_of
from mmrlhf_ray.feedback.regions import region_of, regions_of
from mmrlhf_ray.schema import PROMPT, check

KEPT = "mmrlhf"
"""Where a written row holds, as JSON, the columns of its annotations that the tool has no place for."""

WRONG = "wrong"
"""Label of a span without a note."""

NUMBERED = re.compile(r"response_(\d+)")
"""Names of the responses in written rows."""
_RATING = re.compile(r"response_(\d+)_(.+)")

_KEPT_COLUMNS = (
    "annotation_id",
    "order_shown",
    "sources",
    "role",
    "comment",
    "gold",
    "round",
    "milliseconds",
    "created",
)


@dataclass(frozen=True)
class ItemVotes:
    """One item as it was asked, with all annotations of it."""

    item_id: str
    kind: str
    prompt: Mapping[str, Any]
    """PROMPT row."""
    responses: tuple[str, ...]
    annotations: tuple[Annotation, ...]


@dataclass(frozen=True)
class Imported:
    """The contents of another tool's file."""

    prompts: list[dict[str, Any]]
    """Raw rows with prompt_id (docs/data.md), each prompt once."""
    annotations: list[Annotation]
    left_out: int
    """Answers that were drafts, discarded or cancelled."""


def items_of(annotations: Sequence[Annotation], prompts: pa.Table) -> list[ItemVotes]:
    """Items in the order of their first annotation. `prompts`: a PROMPT table.

    Raises DataError for an unknown prompt, for an item of several kinds or sets of responses, and for two annotations
    of one annotator to one item.
    """
    asked = {row["prompt_id"]: row for row in check(prompts, PROMPT, "items_of").to_pylist()}
    votes: dict[str, list[Annotation]] = {}
    for annotation in annotations:
        if annotation.prompt_id not in asked:
            raise DataError(f"annotation {annotation.annotation_id}: prompt_id {annotation.prompt_id!r} is unknown")
        votes.setdefault(annotation.item_id, []).append(annotation)
    items = []
    for item_id, made in votes.items():
        if len({(a.prompt_id, a.kind, a.responses) for a in made}) > 1:
            raise DataError(
                f"item {item_id}: its annotations differ in prompt, kind or responses; give each its own id"
            )
        people = [a.annotator_id for a in made]
        if len(set(people)) < len(people):
            raise DataError(f"item {item_id}: {max(people, key=people.count)} answered twice; keep one of the answers")
        items.append(ItemVotes(item_id, made[0].kind, asked[made[0].prompt_id], made[0].responses, tuple(made)))
    return items


def written_prompt(prompt: Mapping[str, Any], media_names: Mapping[str, Any], name: str) -> dict[str, Any]:
    """{"messages": turns of {"role", "content"} with <image> and the like in the text, "image_0": …} of a PROMPT row.

    Raises RowError for text that holds such a tag itself.
    """
    turns = [{"role": m["role"], "content": tagged_text(m, name)} for m in record_chat(prompt)]
    media = written_media(prompt, media_names)
    singular = {key: kind for kind, key in MEDIA_LISTS.items()}
    named = {f"{singular[key]}_{i}": value for key, values in media.items() for i, value in enumerate(values)}
    return {"messages": turns, **named}


def raw_prompt(
    prompt_id: str, asked: Any, media: Mapping[str, Sequence[Any]], extras: Mapping[str, Any]
) -> dict[str, Any]:
    """A raw row (docs/data.md) of a prompt: `asked` is text or a list of turns. `media`: images, audios, videos."""
    if isinstance(asked, str):
        question: dict[str, Any] = {"prompt": asked}
    elif isinstance(asked, list):
        turns = [{key: turn.get(key) for key in ("role", "content")} for turn in asked]
        question = {"messages": lead_with_media(split_tags(turns), media)}
    else:
        raise RowError(f"the prompt is a {type(asked).__name__}, expected text or a list of turns", "name its field")
    row = {"prompt_id": prompt_id, **question, **{key: list(values) for key, values in media.items() if values}}
    task = extras.get("task")
    others = {key: value for key, value in extras.items() if key != "task"}
    return row | ({"task": task} if isinstance(task, str) else {}) | ({"extras": others} if others else {})


def kept_columns(item: ItemVotes) -> str:
    """Those columns of the item's annotations that the tool has no place for, as JSON by annotator."""
    columns = {
        a.annotator_id: {key: getattr(a, key) for key in _KEPT_COLUMNS}
        | ({"regions": [asdict(region) for region in a.regions]} if a.regions else {})
        | ({"turns": [[turn_json(turn) for turn in turns] for turns in a.turns]} if a.turns else {})
        for a in item.annotations
    }
    return json.dumps({"kind": item.kind, "annotators": columns}, ensure_ascii=False)


def made_annotation(
    kind: str,
    answer: Mapping[str, Any],
    *,
    kept: str | None,
    item_id: str,
    prompt_id: str,
    responses: Sequence[str],
    annotator_id: str,
    **columns: Any,
) -> Annotation:
    """The annotation of an answer given about the responses in the order of the list. `kept`: see kept_columns().

    Without what was kept, the annotation_id is a hash of whose answer to what it is, so that reading a file again
    gives the same.
    """
    order = tuple(range(len(responses)))
    made = columns_of_answer(kind, answer, order)
    identity = hashlib.sha256(json.dumps([item_id, prompt_id, annotator_id, kind]).encode()).hexdigest()[:32]
    aspects: dict[str, Ratings] = {name: tuple(values) for name, values in json.loads(made["aspects"]).items()}
    annotation = Annotation(
        **(
            made
            | {"ranks": tuple(made["ranks"]), "aspects": aspects, "spans": _spans(made["spans"])}
            | {"regions": regions_of(made["regions"])}
            | columns
        ),
        annotation_id=identity,
        item_id=item_id,
        prompt_id=prompt_id,
        responses=tuple(responses),
        sources=("",) * len(responses),
        annotator_id=annotator_id,
        kind=kind,
        order_shown=order,
    )
    known = json.loads(kept) if kept else {}
    own = known.get("annotators", {}).get(annotator_id) if known.get("kind") == kind else None
    return annotation if own is None else _with_kept(annotation, own)


def read_exported(
    rows: Sequence[Mapping[str, Any]],
    read: Callable[[Mapping[str, Any], int], tuple[dict[str, Any], list[Annotation], int]],
    what: str,
) -> Imported:
    """All that a tool exported, row by row. `read`: a row and its number to its prompt, its annotations and how many
    answers it leaves out. `what` a row is called in errors. Raises DataError naming the row."""
    prompts: dict[str, dict[str, Any]] = {}
    annotations: list[Annotation] = []
    left_out = 0
    for number, row in enumerate(rows):
        try:
            prompt, made, out = read(row, number)
        except RowError as error:
            raise DataError(f"{what} {number} ({row.get('id', '')}): {error}") from error
        prompts.setdefault(prompt["prompt_id"], prompt)
        annotations += made
        left_out += out
    return Imported(list(prompts.values()), annotations, left_out)


def rated_response(name: str, named: Mapping[str, tuple[str, int]], count: int) -> tuple[str, int] | None:
    """(aspect, number of the response) that a question or control rates: as `named`, else as response_<number>_<aspect>
    says; None where it rates nothing. Raises RowError for a number that is not below `count`."""
    found = _RATING.fullmatch(name)
    target = named.get(name) or ((found[2], int(found[1])) if found else None)
    if target is not None and not 0 <= target[1] < count:
        raise RowError(f"{name} rates response {target[1]} of {count}", "correct `ratings` of the names")
    return target


def _spans(text: str) -> tuple[tuple[int, int, str], ...]:
    return tuple((start, end, note) for start, end, note in json.loads(text))


def _with_kept(annotation: Annotation, own: Mapping[str, Any]) -> Annotation:
    columns: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in own.items()}
    columns["turns"] = tuple(tuple(turn_of(turn) for turn in turns) for turns in own.get("turns", ()))
    columns["regions"] = tuple(region_of(region) for region in own.get("regions", ()))
    sides = {"left": "right", "right": "left"} if tuple(own["order_shown"]) == (1, 0) else {}
    return replace(annotation, choice=sides.get(annotation.choice, annotation.choice), **columns)


def listed_choice(annotation: Annotation) -> str:
    """The choice of a pair as if its responses had been shown in the order of the list."""
    listed = {(1, 2): "left", (2, 1): "right"}
    return listed.get((annotation.ranks[0], annotation.ranks[1]), annotation.choice)


def order_of(annotation: Annotation, name: str) -> list[int]:
    """Responses from the best to the worst. Raises RowError for ties, which `name` cannot express."""
    if len(set(annotation.ranks)) < len(annotation.ranks):
        raise RowError(
            f"{name} cannot express the tie in the ranking {annotation.annotation_id}", "write mmrlhf, which can"
        )
    return sorted(range(len(annotation.ranks)), key=annotation.ranks.__getitem__)


def ranks_of(order: Sequence[Any], values: Sequence[Any], what: str) -> list[int]:
    """Ranks of `values` that a list from the best to the worst gives. Raises RowError unless it has each once."""
    if sorted(map(str, order)) != sorted(map(str, values)):
        raise RowError(f"{what} ranks {list(order)}, expected each of {list(values)} once", "name the responses")
    return [list(map(str, order)).index(str(value)) + 1 for value in values]
