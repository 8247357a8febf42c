"""Using an exported network: ONNX Runtime alone, without torch."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnxruntime
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidGraph, InvalidProtobuf

from mmrlhf_ray.config.discrete import DiscreteConfig
from mmrlhf_ray.discrete.spaces import PRESENT, TASK
from mmrlhf_ray.errors import RunError

OUTPUT = "scores"
ACTIONS = "actions"
"""Key of the file's metadata: JSON {task: [name of each action]}."""


def open_session(path: Path, threads: int = 1) -> onnxruntime.InferenceSession:
    """Raises RunError where the file is none of ours."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except (InvalidProtobuf, InvalidGraph, Fail) as error:
        raise RunError(f"{path}: is no ONNX file: {error}") from error
    if ACTIONS not in session.get_modelmeta().custom_metadata_map:
        raise RunError(f"{path}: expected a file of `mmrlhf discrete-export`, which says its actions; got another ONNX")
    return session


def session_scores(session: onnxruntime.InferenceSession) -> Callable[[Mapping[str, np.ndarray]], np.ndarray]:
    """A function from observations of B rows to scores float32 [B, actions]."""
    names = [entry.name for entry in session.get_inputs()]

    def of(observations: Mapping[str, np.ndarray]) -> np.ndarray:
        scores: np.ndarray = session.run([OUTPUT], {name: observations[name] for name in names})[0]
        return scores

    return of


def input_names(cfg: DiscreteConfig) -> list[str]:
    """Modalities in the configuration's order, `present`, and with several tasks `task`."""
    return [*cfg.observation.modalities, PRESENT, *((TASK,) if len(cfg.tasks) > 1 else ())]


def session_actions(session: onnxruntime.InferenceSession) -> dict[str, list[str]]:
    """Task → names of its actions."""
    actions: dict[str, list[str]] = json.loads(session.get_modelmeta().custom_metadata_map[ACTIONS])
    return actions
