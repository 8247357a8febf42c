"""One model of several that were trained from the same one: the mean of their weights."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from mmrlhf_ray.errors import ConfigError, ModelError
from mmrlhf_ray.models.card import CardFacts, base_of, write_card
from mmrlhf_ray.models.export import written_model
from mmrlhf_ray.models.scalar_head import SCALAR_HEAD_FILE, read_scalar_head, write_scalar_head
from mmrlhf_ray.models.tokens import check_same_tokens

_INDEX = "model.safetensors.index.json"


def average_models(sources: Sequence[Path], target: Path) -> None:
    """Write to `target` the model whose every weight is the mean (1/n) Σ θ_i of those of the models in `sources`, each
    in Hugging Face format; a scalar head is averaged too. Processor and other files are those of the first.

    Sums are in float64, one tensor of all models in memory at a time. Source: WARM, Ramé et al. 2024, "WARM: On the
    Benefits of Weight Averaged Reward Models", equation 2, for reward models of several runs from one start; of
    checkpoints of one run it is the tail average of Izmailov et al. 2018, "Averaging Weights Leads to Wider Optima".
    What was fitted to one model's scores (`score_fit.json`) is left out: it is not the mean's.

    Raises ConfigError for fewer than two models or a `target` that is there, ModelError for models that read other
    tokens or differ in a tensor's name, shape or dtype, or in the layout of their heads.
    """
    if len(sources) < 2:
        raise ConfigError(f"expected two models or more to average, got {len(sources)}; name their directories")
    if target.exists():
        raise ConfigError(f"{target}: expected a directory that is not there yet; remove it or choose another")
    check_same_tokens(*sources)
    _check_heads(sources)
    with ExitStack() as stack:
        opened = [OpenedWeights(source, stack) for source in sources]
        for own in opened[1:]:
            _check_alike(opened[0], own)
        first = opened[0]
        body = [name for name in first.shapes if not name.startswith(SCALAR_HEAD_FILE)]
        with written_model(sources[0], target, _means(opened, body)) as fresh:
            head = dict(_means(opened, [name for name in first.shapes if name not in body]))
            if head:
                _write_head(sources[0], fresh, head)
            write_card(fresh, _card(target.name, sources))


def _card(name: str, sources: Sequence[Path]) -> CardFacts:
    summary = f"Every weight is the mean of those of {len(sources)} models (`mmrlhf average`)."
    return CardFacts(name, summary, [base_of(source) for source in sources], tags=["average"], merged=True)


class OpenedWeights:
    """The tensors of one model; those of a scalar head are named after its file."""

    def __init__(self, path: Path, stack: ExitStack):
        self.path = path
        self._files: dict[str, Any] = {}
        for file in _files(path):
            opened = stack.enter_context(safe_open(str(file), framework="pt"))
            prefix = f"{SCALAR_HEAD_FILE}:" if file.name == SCALAR_HEAD_FILE else ""
            self._files |= {prefix + name: opened for name in opened.keys()}  # noqa: SIM118 - not a dict
        self.shapes: Mapping[str, tuple[tuple[int, ...], str]] = {
            name: (tuple(own.get_shape()), own.get_dtype())
            for name, own in ((n, f.get_slice(_bare(n))) for n, f in self._files.items())
        }

    def tensor(self, name: str) -> Tensor:
        found: Tensor = self._files[name].get_tensor(_bare(name))
        return found


def _bare(name: str) -> str:
    return name.removeprefix(f"{SCALAR_HEAD_FILE}:")


def _files(path: Path) -> list[Path]:
    """Of weights; a sharded model's are those of its index."""
    index = path / _INDEX
    if index.is_file():
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    else:
        names = ["model.safetensors"]
    files = [path / name for name in names] + [path / SCALAR_HEAD_FILE] * (path / SCALAR_HEAD_FILE).is_file()
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise ModelError(f"{path}: expected a model's safetensors, {missing[0]} is not there; give an exported model")
    return files


def _check_heads(sources: Sequence[Path]) -> None:
    """The layout says how outputs make a score, so that the same numbers with another one mean something else."""
    scalar = [(source / SCALAR_HEAD_FILE).is_file() for source in sources]
    for source, own in zip(sources, scalar, strict=True):
        if own != scalar[0]:
            kinds = {True: "a reward model", False: "a model that answers"}
            raise ModelError(f"{source}: expected {kinds[scalar[0]]} as {sources[0]} is, got {kinds[own]}")
        expected, came = read_scalar_head(sources[0]), read_scalar_head(source)
        if came != expected:
            raise ModelError(
                f"{source}: expected a head with ensemble={expected.ensemble} and aspects={dict(expected.aspects)} as "
                f"in {sources[0]}, got ensemble={came.ensemble} and aspects={dict(came.aspects)}; average "
                "models of one configuration"
            )


def _check_alike(expected: OpenedWeights, came: OpenedWeights) -> None:
    for name in sorted(expected.shapes.keys() | came.shapes.keys()):
        want, got = expected.shapes.get(name), came.shapes.get(name)
        if want != got:
            raise ModelError(
                f"{came.path}: expected {_bare(name)} with {_said(want)} as in {expected.path}, got {_said(got)}; "
                "average models that were trained from one start"
            )


def _said(shape: tuple[tuple[int, ...], str] | None) -> str:
    return "no such tensor" if shape is None else f"shape {list(shape[0])} in {shape[1]}"


def _means(opened: Sequence[OpenedWeights], names: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
    for name in names:
        tensors = [own.tensor(name) for own in opened]
        if tensors[0].is_floating_point():
            total = tensors[0].double()
            for tensor in tensors[1:]:
                total = total + tensor.double()
            yield name, (total / len(tensors)).to(tensors[0].dtype)
        else:
            yield name, tensors[0]


def _write_head(source: Path, fresh: Path, head: Mapping[str, Tensor]) -> None:
    save_file({_bare(name): tensor.contiguous() for name, tensor in head.items()}, fresh / SCALAR_HEAD_FILE)
    write_scalar_head(fresh, read_scalar_head(source))
