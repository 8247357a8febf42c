"""Starts, steps and parts as JSON, between a pool and its processes; bytes as base64."""

import base64
from collections.abc import Iterable, Mapping
from typing import Any

from mmrlhf_ray.environments.protocol import Part, Shown, Start, Step


def parts_to_json(parts: Iterable[Part]) -> list[dict[str, str]]:
    """{"text"} or {"kind", "mime", "data"} for each part."""
    return [
        {"text": part}
        if isinstance(part, str)
        else {"kind": part.kind, "mime": part.mime, "data": base64.b64encode(part.data).decode()}
        for part in parts
    ]


def parts_from_json(values: Iterable[Mapping[str, str]]) -> tuple[Part, ...]:
    """The inverse of parts_to_json()."""
    return tuple(value["text"] if "text" in value else _shown(value) for value in values)


def start_to_json(start: Start) -> dict[str, Any]:
    """All fields of a Start."""
    return {
        "prompt_id": start.prompt_id,
        "task": start.task,
        "messages": start.messages,
        "extras": start.extras,
        "media": parts_to_json(start.media),
        "seed": start.seed,
    }


def start_from_json(value: Mapping[str, Any]) -> Start:
    """The inverse of start_to_json()."""
    return Start(**{**value, "media": tuple(_shown(clip) for clip in value["media"])})


def step_to_json(step: Step) -> dict[str, Any]:
    """All fields of a Step."""
    return {
        "observation": parts_to_json(step.observation),
        "reward": step.reward,
        "done": step.done,
        "problem": step.problem,
    }


def step_from_json(value: Mapping[str, Any]) -> Step:
    """The inverse of step_to_json()."""
    return Step(parts_from_json(value["observation"]), value["reward"], value["done"], value["problem"])


def _shown(value: Mapping[str, str]) -> Shown:
    return Shown(value["kind"], value["mime"], base64.b64decode(value["data"]))
