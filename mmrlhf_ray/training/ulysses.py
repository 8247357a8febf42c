"""Sequence parallelism after Ulysses (Jacobs et al. 2023): a line's tokens are spread over ranks, and within attention
its heads. What exchanges one for the other is DeepSpeed's."""

import re
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from deepspeed.runtime.sequence_parallel.ulysses_sp import UlyssesSPAttentionHF
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from mmrlhf_ray.models import SDPA, HeadedModel, ModelAdapter, Spread, kernel_of

Attention = Callable[..., tuple[Tensor, Tensor | None]]
_plain: dict[str, Attention] = {}
"""Kernel → transformers' own function."""
_spread: WeakKeyDictionary[nn.Module, UlyssesSPAttentionHF] = WeakKeyDictionary()
"""Attention layer of a language model → what exchanges its tokens for heads."""


def sequence_group(ranks: int) -> Spread:
    """This rank's place among the `ranks` neighbours that a line is spread over. A collective."""
    rank, found = dist.get_rank(), []
    for first in range(0, dist.get_world_size(), ranks):
        group = dist.new_group(range(first, first + ranks))
        if first <= rank < first + ranks:
            found.append(group)
    return Spread(found[0], rank % ranks, ranks)


def spread_over(model: HeadedModel, adapter: ModelAdapter, spread: Spread) -> None:
    """From now on the language model of `model` computes this rank's part of each line. Passes must be one line, whose
    width is a multiple of the ranks; media towers and embeddings see all of it on every rank."""
    language_model = next(m for n, m in model.backbone.named_modules() if re.fullmatch(adapter.language_model, n))
    text = model.backbone.config.get_text_config()
    exchange = UlyssesSPAttentionHF(
        attn=_core,
        batch_size=1,
        attn_head_count=text.num_attention_heads,
        attn_head_size=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
        kv_head_count=text.num_key_value_heads,
        num_hidden_layers=text.num_hidden_layers,
        process_group=spread.group,
        seq_length_is_variable=True,
    )
    _spread.update({layer: exchange for layer in language_model.modules() if hasattr(layer, "num_key_value_groups")})
    # DeepSpeed's register_with_transformers() would spread the towers' attention too, and drop the masks of lines.
    for kernel in {SDPA, kernel_of(model.backbone)} - _plain.keys():
        _plain[kernel] = ALL_ATTENTION_FUNCTIONS[kernel]
        ALL_ATTENTION_FUNCTIONS.register(kernel, _attend(_plain[kernel]))
    language_model.register_forward_pre_hook(_take_part(spread), with_kwargs=True)
    model.spread = spread


def _attend(plain: Attention) -> Attention:
    def attend(module: nn.Module, query: Tensor, *given: Any, **named: Any) -> tuple[Tensor, Tensor | None]:
        exchange = _spread.get(module)
        if exchange is None:
            return plain(module, query, *given, **named)
        if named.get("position_ids") is None:  # asked for, and read only where there is no mask
            named["position_ids"] = torch.zeros(1, query.shape[2], dtype=torch.long, device=query.device)
        output: tuple[Tensor, Tensor | None] = exchange(module, query, *given, **named)
        return output

    return attend


def _core(module: nn.Module, *given: Any, **named: Any) -> tuple[Tensor, Tensor | None]:
    """Attention of some heads over the entire line."""
    return _plain[module.config._attn_implementation](module, *given, **named)


def _take_part(spread: Spread) -> Callable[..., tuple[tuple[Any, ...], dict[str, Any]]]:
    def hook(module: nn.Module, arguments: tuple[Any, ...], inputs: dict[str, Any]) -> Any:
        own = spread.part(inputs["inputs_embeds"].shape[1])
        taken = {
            "inputs_embeds": inputs["inputs_embeds"][:, own],
            "position_ids": inputs["position_ids"][..., own],
        }
        seen = inputs.get("visual_pos_masks")
        if seen is not None:  # a row for each marked position, which layers add to it
            first, last = (int(seen[:, :end].sum()) for end in (own.start, own.stop))
            taken["visual_pos_masks"] = seen[:, own]
            taken["deepstack_visual_embeds"] = [rows[first:last] for rows in inputs["deepstack_visual_embeds"]]
        return arguments, inputs | taken  # a mask stays that of the entire line

    return hook
