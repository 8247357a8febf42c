"""The sizes that tiny models share, as transformers' configurations name them."""

from typing import Any

from transformers import PreTrainedTokenizerFast

from mmrlhf_ray.demo.families.tokens import CONTEXT_TOKENS, END, PAD

HIDDEN, HEADS = 64, 2  # vLLM's attention on the CPU wants heads of 32 or more
TOWER_INIT = 0.2
"""Wide enough that media change the logits of an untrained model visibly."""


def text_config(tokenizer: PreTrainedTokenizerFast, **own: Any) -> dict[str, Any]:
    """A language model of two layers; `own` adds what its class asks for."""
    ids = tokenizer.get_vocab()
    return {
        "vocab_size": len(ids),
        "hidden_size": HIDDEN,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "max_position_embeddings": CONTEXT_TOKENS,
        "initializer_range": 0.2,
        "bos_token_id": None,
        "eos_token_id": ids[END],
        "pad_token_id": ids[PAD],
        **own,
    }


def vision_config(**own: Any) -> dict[str, Any]:
    """A vision tower of two layers, as CLIP and its descendants name its sizes; `own` adds what its class asks for."""
    return {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "patch_size": 4,
        "initializer_range": TOWER_INIT,
        **own,
    }
