"""From what somebody sends (files and text) to an observation, and from scores to an answer."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mmrlhf_ray.config.discrete import DiscreteConfig
from mmrlhf_ray.config.discrete_parts import AudioModality, LocateTask, Modality, TextModality
from mmrlhf_ray.data.media.decode_pool import DecodeSettings, decode_pool
from mmrlhf_ray.discrete.cases import Column
from mmrlhf_ray.discrete.spaces import PRESENT, TASK, empty_observation, grid_boxes
from mmrlhf_ray.discrete.tasks import fitted, text_array


class BadRequest(ValueError):
    """A request that cannot be decided; the message says why and what to send."""


def chosen_task(cfg: DiscreteConfig, task: str | None) -> str:
    """The task that is asked for; with one task nobody needs to say it. Raises BadRequest."""
    names = list(cfg.tasks)
    if task is None and len(names) == 1:
        return names[0]
    if task not in cfg.tasks:
        raise BadRequest(f"task: expected one of {', '.join(names)}, got {task!r}")
    return task


def observe(cfg: DiscreteConfig, task: str, given: Mapping[str, bytes | str]) -> dict[str, np.ndarray]:
    """An observation of one row; media are decoded and fitted as the task's training records were.

    given: modality → the file's bytes, or text. Raises BadRequest for what is unknown, unreadable, or nothing at all.
    """
    modalities = cfg.observation.modalities
    unknown = sorted(set(given) - set(modalities))
    if unknown or not given:
        got = f"got {unknown[0]!r}" if unknown else "got nothing"
        raise BadRequest(f"expected at least one of {_expected(modalities)}; {got}")
    made = {name: array[None].copy() for name, array in empty_observation(cfg).items()}
    for number, (name, modality) in enumerate(modalities.items()):
        if name not in given:
            continue
        array = _array(name, modality, given[name], DecodeSettings.of(cfg.tasks[task].train))
        made[name] = Column(array[None], np.zeros(1, np.int64)).take(np.zeros(1, np.int64))
        made[PRESENT][0, number] = 1.0
    if TASK in made:
        made[TASK][0] = [name == task for name in cfg.tasks]
    return made


def answer(
    cfg: DiscreteConfig,
    task: str,
    observation: Mapping[str, np.ndarray],
    scores: np.ndarray,
    actions: list[str],
    final: bool,
) -> dict[str, Any]:
    """{"task", "decision", "action", "scores": {decision: score}, "missing": [modalities]}; for boxes also "box".

    Where the best action asks for a modality that is not there, {"ask_for": modality} takes the place of the decision,
    unless this is `final`. scores [actions]; actions: their names.
    """  # fmt: skip
    present = observation[PRESENT][0] > 0
    missing = [name for name, there in zip(cfg.observation.modalities, present, strict=True) if not there]
    decisions = len(actions) - len(cfg.ask_actions)
    about: dict[str, Any] = {"task": task, "missing": missing}
    about["scores"] = {name: float(scores[number]) for number, name in enumerate(actions[:decisions])}
    best = int(scores[:decisions].argmax())
    asks = {name: float(scores[decisions + i]) for i, name in enumerate(cfg.ask_actions) if name in missing}
    if asks and not final and max(asks.values()) > scores[best]:
        return about | {"ask_for": max(asks, key=asks.__getitem__)}
    section = cfg.tasks[task]
    box = {"box": [float(x) for x in grid_boxes(section.grid)[best]]} if isinstance(section, LocateTask) else {}
    return about | {"decision": actions[best], "action": best} | box


def _array(name: str, modality: Modality, given: bytes | str, settings: DecodeSettings) -> np.ndarray:
    if isinstance(modality, TextModality):
        if not isinstance(given, str) or not given.strip():
            raise BadRequest(f"{name}: expected text, got {'a file' if isinstance(given, bytes) else 'none'}")
        return text_array(given, modality)
    if not isinstance(given, bytes):
        raise BadRequest(f"{name}: expected {_article(modality.kind)} file, got text")
    rate = modality.sampling_rate if isinstance(modality, AudioModality) else None
    try:
        (medium,) = decode_pool(settings).decode([(modality.kind, given)], rate)
    except ValueError as error:
        raise BadRequest(f"{name}: {error}; send {_article(modality.kind)} file") from error
    return fitted(medium, modality)


def _expected(modalities: Mapping[str, Modality]) -> str:
    return ", ".join(f"{name} ({modality.kind})" for name, modality in modalities.items())


def _article(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"
