"""Each clip through its media tower once per pass, however often the pass shows it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

CLIPS, ROWS = "clips_of_", "rows_of_"
"""Prefixes of two inputs next to a tower's own, which then holds each clip once: the number of the clip at each place
where one is shown [places], and each clip's rows [clips]."""

Inputs = dict[str, Any]


@dataclass(frozen=True)
class Seen:
    """The clips of a pass, as the towers see them."""

    shown: list[int]
    """Number of the clip at each place."""
    rows: list[int]
    """Of each clip in the tower's own input."""

    @property
    def first(self) -> list[int]:
        """The place at which each clip is shown first."""
        return [self.shown.index(clip) for clip in range(len(self.rows))]


Repeat = Callable[[nn.Module, Any, Seen, Sequence[Tensor]], Any]
"""(owner, a tower's output, clips, tensors that describe each clip) → the output as if it had run at every place."""


@dataclass(frozen=True)
class Tower:
    """How a class of transformers runs a media tower."""

    method: str
    """Of the module that owns the tower. Its other tensors describe the clips, one row for each place."""
    repeat: Repeat


def repeat_clips(owner: nn.Module, output: Any, seen: Seen, described: Sequence[Tensor]) -> Any:
    """Of a tower that returns a tensor for each clip, and perhaps for each clip and layer."""
    output.pooler_output = [output.pooler_output[clip] for clip in seen.shown]
    if getattr(output, "deepstack_features", None) is not None:
        output.deepstack_features = [[of_layer[clip] for clip in seen.shown] for of_layer in output.deepstack_features]
    return output


def repeat_rows(owner: nn.Module, output: Any, seen: Seen, described: Sequence[Tensor]) -> Any:
    """Of a tower that returns a row for each row of its input."""
    parts = output.pooler_output.split(seen.rows)
    output.pooler_output = torch.cat([parts[clip] for clip in seen.shown])
    return output


def repeat_sounds(lengths: Callable[[nn.Module, Tensor], Tensor]) -> Repeat:
    """Of a tower that returns all sounds in one row; `lengths` of them in tokens, from their frames [clips]."""

    def repeat(owner: nn.Module, output: Any, seen: Seen, described: Sequence[Tensor]) -> Any:
        (mask,) = described
        parts = output.last_hidden_state.split(lengths(owner, mask.sum(-1)).tolist())
        output.last_hidden_state = torch.cat([parts[clip] for clip in seen.shown])
        return output

    return repeat


def show_clips_once(model: PreTrainedModel, towers: Mapping[str, Tower]) -> None:
    """From now on `model` also takes inputs in which each clip is there once: CLIPS and ROWS say where it is shown."""
    owner, seen, running = model.base_model, dict[str, Seen](), set[str]()

    def hook(module: PreTrainedModel, arguments: tuple[Any, ...], inputs: Inputs) -> tuple[tuple[Any, ...], Inputs]:
        seen.clear()
        for key in towers:
            if CLIPS + key in inputs:
                seen[key] = Seen(inputs[CLIPS + key].tolist(), inputs[ROWS + key].tolist())
        taken = {prefix + key for key in seen for prefix in (CLIPS, ROWS)}
        return arguments, {name: value for name, value in inputs.items() if name not in taken}

    for key, tower in towers.items():
        setattr(owner, tower.method, _once(owner, key, tower, seen, running))
    model.register_forward_pre_hook(hook, with_kwargs=True)


def _once(owner: nn.Module, key: str, tower: Tower, seen: Mapping[str, Seen], running: set[str]) -> Callable[..., Any]:
    method = getattr(owner, tower.method)

    def run(*given: Any, **named: Any) -> Any:
        running.add(key)
        try:
            return method(*given, **named)
        finally:
            running.discard(key)

    def once(*given: Any, **named: Any) -> Any:
        if running or key not in seen:  # a class may run one kind of media through another's method
            return run(*given, **named)
        clips = seen[key]
        described: list[Tensor] = []

        def of_clips(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            described.append(value[clips.first])
            return described[-1]

        own = 0 if key in named else 1  # of the places in `given`
        positional = [*given[:own], *map(of_clips, given[own:])]
        options = {name: value if name == key else of_clips(value) for name, value in named.items()}
        return tower.repeat(owner, run(*positional, **options), clips, described)

    return once
