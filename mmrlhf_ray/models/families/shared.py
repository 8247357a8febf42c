"""Lines in which several responses stand behind one prompt, for classes of transformers that know plain rows only.

A line is [prompt | response 1 | response 2 | … | next prompt | …]. A response sees its prompt and itself, and its
positions go on from the end of its prompt, so that every token gets what a plain row [prompt | response] would give it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from mmrlhf_ray.models.families.kernels import is_flash, kernel_of, use_kernel
from mmrlhf_ray.models.families.positions import Inputs

PROMPT, PART, PLACE = "line_prompt", "line_part", "line_place"
"""Inputs [lines, width] next to `input_ids`: the number of the prompt, −1 where there is padding; 0 in the prompt, from
1 on in its responses; and the place that the token would have in a plain row. Without PART the line is packed: there is
one, and each prompt in it has one response."""
PLAIN_IDS, PLAIN_MASK = "plain_ids", "plain_mask"
"""Inputs [prompts, longest]: each prompt with its longest response as a plain row, and where it has tokens."""


@dataclass(frozen=True)
class SharedRows:
    """How a class numbers and masks plain rows, so that the same can be said of lines."""

    positions: Callable[[PreTrainedModel, Inputs], Tensor | None] = lambda model, inputs: None
    """Position ids […, B, L] from (model, inputs of plain rows); None = counted from left to right."""
    both_ways: Callable[[PreTrainedModel, Tensor], Tensor] | None = None
    """Of token ids [lines, width]: a number for each run of tokens that see each other in both directions, −1 for all
    other tokens."""


def take_lines(
    model: PreTrainedModel, shared: SharedRows, complete: Callable[[PreTrainedModel, Inputs], Inputs] | None
) -> None:
    """From now on `model` also takes lines, which PROMPT, PART, PLACE, PLAIN_IDS and PLAIN_MASK describe. Plain rows
    get what `complete` makes of them."""

    def hook(module: PreTrainedModel, arguments: tuple[Any, ...], inputs: Inputs) -> tuple[tuple[Any, ...], Inputs]:
        if PROMPT not in inputs:
            use_kernel(module)
            return arguments, inputs | (complete(module, inputs) if complete else {})
        prompt, place, plain_ids, plain_mask = (inputs.pop(name) for name in (PROMPT, PLACE, PLAIN_IDS, PLAIN_MASK))
        part = inputs.pop(PART, None)
        plain = shared.positions(module, inputs | {"input_ids": plain_ids, "attention_mask": plain_mask})
        positions = place if plain is None else plain[..., prompt.clamp(min=0), place]
        both = shared.both_ways(module, inputs["input_ids"]) if shared.both_ways else None
        if part is None and is_flash(kernel_of(module)) and (both is None or not bool((both >= 0).any())):
            use_kernel(module)
            return arguments, inputs | {
                "position_ids": _packed_positions(place, positions),
                "attention_mask": _by_layer(module, None, None),
            }
        use_kernel(module, masked=True)
        return arguments, inputs | {
            "position_ids": positions,
            "attention_mask": _masks(module, prompt, torch.zeros_like(place) if part is None else part, place, both),
        }

    model.register_forward_pre_hook(hook, with_kwargs=True)


def _packed_positions(place: Tensor, positions: Tensor) -> Tensor:
    """As transformers reads them where rows stand end to end without a mask: from the places, which begin anew with
    each row, it tells where the rows are. Those of text, time, height and width are four [4, 1, width]."""
    return torch.cat([place[None], positions]) if positions.dim() == 3 else positions


def _masks(
    model: PreTrainedModel, prompt: Tensor, part: Tensor, place: Tensor, both: Tensor | None
) -> Tensor | dict[str, Tensor | None] | None:
    """The positions that each position of a line sees, [lines, 1, width, width]; by kind of layer where some layers
    have a window."""

    def pairs(values: Tensor) -> tuple[Tensor, Tensor]:
        return values[:, :, None], values[:, None, :]

    (own, others), (part_here, part_there), (here, there) = pairs(prompt), pairs(part), pairs(place)
    row = (own == others) & ((part_there == 0) | (part_there == part_here))
    seen = row & (there <= here)
    if both is not None:
        run, other_run = pairs(both)
        seen |= row & (run == other_run) & (run >= 0)
    if not _has_window(model):
        return _as_attention(model, seen)
    near = seen & (there > here - model.config.get_text_config().sliding_window)
    return _by_layer(model, _as_attention(model, seen), _as_attention(model, near))


def _has_window(model: PreTrainedModel) -> bool:
    return "sliding_attention" in (getattr(model.config.get_text_config(), "layer_types", None) or ())


def _by_layer(
    model: PreTrainedModel, whole: Tensor | None, near: Tensor | None
) -> Tensor | dict[str, Tensor | None] | None:
    """Masks in the form that the class takes: by kind of layer where some layers have a window."""
    return {"full_attention": whole, "sliding_attention": near} if _has_window(model) else whole


def _as_attention(model: PreTrainedModel, seen: Tensor) -> Tensor:
    """In the form that the model's attention takes."""
    seen = seen[:, None]
    if model.config.get_text_config()._attn_implementation != "eager":
        return seen
    return torch.zeros(seen.shape, dtype=model.dtype, device=seen.device).masked_fill(
        ~seen, torch.finfo(model.dtype).min
    )
