"""Who did what from when to when: the calls of a run's actors, as Ray noted them, in Chrome's trace format."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from mmrlhf_ray.disk import writing

_CALL = "task::"
"""How the category of a call begins in Ray's timeline, where its phases are events of their own."""
_ACTOR_ID = slice(16, None)
"""Of the hexadecimal id of a call: who was called."""
_MICRO = 1e6
DRIVER = "driver"


@dataclass(frozen=True)
class Span:
    """Something that the driver did."""

    name: str
    start: float
    """Unix seconds."""
    end: float


@dataclass(frozen=True)
class _Call:
    actor: str
    name: str
    start: float
    """Unix microseconds."""
    length: float
    """Microseconds."""


def write_timeline(file: Path, actors: Mapping[str, str], spans: Sequence[Span], unnoted: Iterable[str] = ()) -> None:
    """Write what the driver and all actors did from the first span's start to the last one's end, for Perfetto or
    chrome://tracing. `actors`: hexadecimal actor id → name; `unnoted`: methods that are left out. Ray must be up: it
    keeps the newest 100,000 calls of a cluster. Raises RunFailed on a full disk."""
    trace = chrome_trace(ray.timeline(), actors, spans, unnoted)
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(trace), encoding="utf-8")


def chrome_trace(
    events: Iterable[Mapping[str, Any]], actors: Mapping[str, str], spans: Sequence[Span], unnoted: Iterable[str] = ()
) -> dict[str, Any]:
    """As write_timeline(), from the events of Ray's own timeline. An actor is a process there, with as many threads as
    it had calls at a time; times are microseconds from the first span's start."""
    first, last = min(span.start for span in spans) * _MICRO, max(span.end for span in spans) * _MICRO
    own = [_Call(DRIVER, span.name, span.start * _MICRO, (span.end - span.start) * _MICRO) for span in spans]
    left_out = frozenset(unnoted)
    calls = [
        call
        for call in _calls(events, actors)
        if call.start < last and call.start + call.length > first and call.name.rpartition(".")[2] not in left_out
    ]
    trace: list[dict[str, Any]] = []
    for pid, name in enumerate([DRIVER, *sorted({call.actor for call in calls})]):
        trace.append({"ph": "M", "pid": pid, "name": "process_name", "args": {"name": name}})
        trace.append({"ph": "M", "pid": pid, "name": "process_sort_index", "args": {"sort_index": pid}})
        for lane, call in _in_lanes(call for call in (*own, *calls) if call.actor == name):
            times = {"ts": round(call.start - first, 3), "dur": round(call.length, 3)}
            trace.append({"ph": "X", "cat": name, "name": call.name, "pid": pid, "tid": lane, **times})
    return {"traceEvents": trace, "displayTimeUnit": "ms"}


def _calls(events: Iterable[Mapping[str, Any]], actors: Mapping[str, str]) -> Iterator[_Call]:
    for event in events:
        if not str(event["cat"]).startswith(_CALL):
            continue
        actor = actors.get(str(event["args"].get("task_id", ""))[_ACTOR_ID])
        if actor is not None:
            name = str(event["args"].get("name") or event["cat"].removeprefix(_CALL))
            yield _Call(actor, name, float(event["ts"]), float(event["dur"]))


def _in_lanes(calls: Iterable[_Call]) -> Iterator[tuple[int, _Call]]:
    """Each call with the first lane that is free then: those of one thread may not overlap."""
    free: list[float] = []
    for call in sorted(calls, key=lambda call: call.start):
        lane = next((number for number, until in enumerate(free) if until <= call.start), len(free))
        free[lane : lane + 1] = [call.start + call.length]
        yield lane, call
