"""A trained network as ONNX, checked against torch before it counts as written."""

import itertools
import json
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from mmrlhf_ray.config.discrete import DiscreteConfig
from mmrlhf_ray.discrete.module import DecisionNet
from mmrlhf_ray.discrete.onnx_file import ACTIONS, OUTPUT, input_names, open_session, session_scores
from mmrlhf_ray.discrete.spaces import PRESENT, TASK, action_names, observation_space
from mmrlhf_ray.errors import RunError

TOLERANCE = 1e-5
_OPSET = 18


@dataclass(frozen=True)
class Parity:
    """How far ONNX Runtime and torch are apart."""

    rows: int
    largest: float
    """max |Δscore| / max(1, |score|)."""
    same_decision: float
    """Share of the rows."""


class _InOrder(nn.Module):
    """The network with one argument per array, as ONNX has it."""

    def __init__(self, net: DecisionNet, names: Sequence[str]) -> None:
        super().__init__()
        self.net, self.names = net, tuple(names)

    def forward(self, *arrays: Tensor) -> Tensor:
        return self.net(dict(zip(self.names, arrays, strict=True)))


def export_onnx(net: DecisionNet, cfg: DiscreteConfig, path: Path) -> Parity:
    """Write the network to `path`; inputs as `spaces.observation_space` with a free number of rows, output `scores`.

    Raises RunError, and leaves nothing behind, where ONNX Runtime and torch differ by more than TOLERANCE.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    names = input_names(cfg)
    example = {name: torch.as_tensor(array) for name, array in sample_observations(cfg, 2, seed=0).items()}
    rows = torch.export.Dim("rows", min=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's about itself
        torch.onnx.export(
            _InOrder(net, names).eval(),
            tuple(example[name] for name in names),
            partial,
            input_names=names,
            output_names=[OUTPUT],
            dynamic_shapes=(({0: rows},) * len(names),),
            opset_version=_OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    _describe(partial, cfg)
    parity = compare(net, partial, cfg)
    if parity.largest > TOLERANCE:
        partial.unlink()
        raise RunError(
            f"{path}: ONNX Runtime's scores differ from torch's by {parity.largest:.1e}, more than {TOLERANCE:.0e}; "
            "nothing was written"
        )
    os.replace(partial, path)
    return parity


def compare(net: DecisionNet, path: Path, cfg: DiscreteConfig, rows: int = 64, seed: int = 1) -> Parity:
    """Run both on random observations with every pattern of missing modalities, in batches of 1 and of `rows`."""
    scores = session_scores(open_session(path))
    largest, same, seen = 0.0, 0, 0
    for size in (1, rows):
        drawn = sample_observations(cfg, size, seed)
        with torch.no_grad():
            expected = net({name: torch.as_tensor(array) for name, array in drawn.items()}).numpy()
        got = scores(drawn)
        both = expected > np.finfo(np.float32).min  # what a task lacks is as low in both, and infinite in neither
        gap = np.abs(got - expected) / np.maximum(1.0, np.abs(expected))
        largest = max(largest, float(gap[both].max(initial=0.0)), float(gap[~both].max(initial=0.0)))
        same, seen = same + int((got.argmax(1) == expected.argmax(1)).sum()), seen + size
    return Parity(seen, largest, same / seen)


def sample_observations(cfg: DiscreteConfig, rows: int, seed: int) -> dict[str, np.ndarray]:
    """Random observations with every pattern of what is present, from all to nothing, and every task in turn."""
    space = observation_space(cfg)
    space.seed(seed)
    drawn = [space.sample() for _ in range(rows)]
    arrays = {name: np.stack([row[name] for row in drawn]) for name in space.spaces}
    patterns = list(itertools.product((1.0, 0.0), repeat=len(cfg.observation.modalities)))
    arrays[PRESENT] = np.array([patterns[row % len(patterns)] for row in range(rows)], np.float32)
    if TASK in arrays:
        arrays[TASK] = np.eye(len(cfg.tasks), dtype=np.float32)[np.arange(rows) % len(cfg.tasks)]
    return arrays


def _describe(path: Path, cfg: DiscreteConfig) -> None:
    """Put the names of the actions into the file, so that it can be read without this project."""
    model = onnx.load(path)
    onnx.helper.set_model_props(
        model,
        {
            ACTIONS: json.dumps({name: [*action_names(task), *cfg.ask_actions] for name, task in cfg.tasks.items()}),
            "modalities": json.dumps(list(cfg.observation.modalities)),
        },
    )
    onnx.save(model, path)
