"""Behaviour towards a deployed model's responses, as weighted labels: copying is praise, asking again is not."""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from mmrlhf_ray.config.implicit import ImplicitConfig
from mmrlhf_ray.errors import DataError
from mmrlhf_ray.feedback.annotations import Annotation
from mmrlhf_ray.feedback.labels.derive import ORIGIN
from mmrlhf_ray.schema import DEMONSTRATION, PROMPT, check

EVENT_KINDS = ("thumbs_up", "thumbs_down", "copy", "click", "regenerate", "edit", "dwell")
"""Things people do with a deployed model's responses."""


@dataclass(frozen=True)
class ImplicitEvent:
    """Something that was done with one response."""

    event_id: str
    response_id: str
    kind: str
    """One of EVENT_KINDS."""
    value: Mapping[str, Any]
    """{"text": what it was changed to} of an edit, {"seconds": time in sight} of dwell; else {}."""
    created: str = ""
    """ISO 8601, UTC: of several thumbs the last counts."""


@dataclass(frozen=True)
class ObservedResponse:
    """A response that was shown to somebody."""

    response_id: str
    prompt_id: str
    text: str


def feedback_of(events: Sequence[ImplicitEvent], text: str, config: ImplicitConfig) -> float | None:
    """Feedback in [−1, 1] of one response from all its events; None where they say nothing.

    A thumb decides alone, the last one given. Otherwise the weight of each kind that occurred counts once, however
    often it did, and the sum is cut off at ±`config.most`. Weights: see ImplicitConfig.
    """
    thumbs = [event for event in sorted(events, key=lambda e: e.created) if event.kind in ("thumbs_up", "thumbs_down")]
    if thumbs:
        return config.thumbs_up if thumbs[-1].kind == "thumbs_up" else config.thumbs_down
    weights: dict[str, float] = {}
    for event in events:
        weight = _WEIGHTS[event.kind](event, text, config)
        if weight is not None:
            weights[event.kind] = weight
    if not weights:
        return None
    return max(-config.most, min(config.most, sum(weights.values())))


def _edit(event: ImplicitEvent, text: str, config: ImplicitConfig) -> float | None:
    return config.edit if event.value["text"] not in ("", text) else None


def _dwell(event: ImplicitEvent, text: str, config: ImplicitConfig) -> float | None:
    return config.dwell if event.value["seconds"] >= config.dwell_s else None


_WEIGHTS: Mapping[str, Callable[[ImplicitEvent, str, ImplicitConfig], float | None]] = {
    "copy": lambda event, text, config: config.copied,
    "click": lambda event, text, config: config.click,
    "regenerate": lambda event, text, config: config.regenerate,
    "edit": _edit,
    "dwell": _dwell,
}


def implicit_demonstrations(
    responses: Sequence[ObservedResponse], events: Sequence[ImplicitEvent], prompts: pa.Table, config: ImplicitConfig
) -> pa.Table:
    """DEMONSTRATION rows with fractional feedback, one for each response about which its events say something.

    In the order of `responses`; feedback 0 would mean a demonstration, so responses whose events cancel out give no
    row. extras[ORIGIN] has the response id and the events. What a response was edited to is in implicit_corrections().
    Raises DataError for an event of an unknown kind, of an unknown response or without its value, and for an unknown
    prompt.
    """
    asked = {row["prompt_id"]: row for row in check(prompts, PROMPT, "implicit_demonstrations").to_pylist()}
    happened = _by_response(responses, events)
    rows = []
    for response in responses:
        if response.prompt_id not in asked:
            raise DataError(
                f"response {response.response_id}: prompt_id {response.prompt_id!r} is not among the prompts"
            )
        feedback = feedback_of(happened[response.response_id], response.text, config)
        if not feedback or not response.text:
            continue
        prompt = asked[response.prompt_id]
        origin = {
            "response_id": response.response_id,
            "kinds": ["implicit"],
            "events": {event.event_id: event.kind for event in happened[response.response_id]},
        }
        extras = json.dumps(json.loads(prompt["extras"]) | {ORIGIN: origin}, ensure_ascii=False)
        rows.append(prompt | {"extras": extras, "response": response.text, "feedback": feedback})
    return check(pa.Table.from_pylist(rows, schema=DEMONSTRATION), DEMONSTRATION, "implicit_demonstrations")


def implicit_corrections(responses: Sequence[ObservedResponse], events: Sequence[ImplicitEvent]) -> list[Annotation]:
    """Edits as corrections, of several edits of one response the last: for derive_preferences() and the like.

    Raises DataError as implicit_demonstrations() does.
    """
    happened = _by_response(responses, events)
    corrections = []
    for response in responses:
        edits = [e for e in sorted(happened[response.response_id], key=lambda e: e.created) if e.kind == "edit"]
        if edits and edits[-1].value["text"] not in ("", response.text):
            corrections.append(
                Annotation(
                    annotation_id=edits[-1].event_id,
                    item_id=response.response_id,
                    prompt_id=response.prompt_id,
                    responses=(response.text,),
                    sources=("",),
                    annotator_id="implicit",
                    kind="correct",
                    order_shown=(0,),
                    text=edits[-1].value["text"],
                    created=edits[-1].created,
                )
            )
    return corrections


def _by_response(
    responses: Sequence[ObservedResponse], events: Sequence[ImplicitEvent]
) -> Mapping[str, list[ImplicitEvent]]:
    known = {response.response_id for response in responses}
    happened: dict[str, list[ImplicitEvent]] = defaultdict(list)
    for event in events:
        _check_event(event, known)
        happened[event.response_id].append(event)
    return happened


_VALUES: Mapping[str, tuple[str, type | tuple[type, ...]]] = {"edit": ("text", str), "dwell": ("seconds", (int, float))}
"""Kind → (key that its value needs, type)."""


def _check_event(event: ImplicitEvent, known: set[str]) -> None:
    if event.response_id not in known:
        raise DataError(f"event {event.event_id}: response_id {event.response_id!r} is unknown; give its response, too")
    if event.kind not in EVENT_KINDS:
        raise DataError(f"event {event.event_id}: kind {event.kind!r}; expected one of {', '.join(EVENT_KINDS)}")
    key, kind = _VALUES.get(event.kind, ("", object))
    if key and (not isinstance(event.value.get(key), kind) or isinstance(event.value[key], bool)):
        raise DataError(
            f"event {event.event_id}: value.{key} of {event.kind} is {event.value.get(key)!r}; give "
            f'{{"{key}": …}} as the value'
        )
