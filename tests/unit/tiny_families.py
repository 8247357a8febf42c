"""Tiny models of families that have no adapter of their own."""

from pathlib import Path

from transformers import (
    CLIPImageProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PixtralImageProcessor,
    PixtralProcessor,
    PreTrainedTokenizerFast,
)

from mmrlhf_ray.demo.families.save import TOWER_INIT, save, seeded
from mmrlhf_ray.demo.families.tokens import CONTEXT_TOKENS, END, PAD, build_tokenizer, chat_template

_HIDDEN, _HEADS, _PATCH = 64, 2, 4


def _text(tokenizer: PreTrainedTokenizerFast, model_type: str) -> dict[str, object]:
    ids = tokenizer.get_vocab()
    return {
        "model_type": model_type,
        "vocab_size": len(ids),
        "hidden_size": _HIDDEN,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": _HEADS,
        "num_key_value_heads": _HEADS,
        "head_dim": _HIDDEN // _HEADS,
        "max_position_embeddings": CONTEXT_TOKENS,
        "sliding_window": None,
        "initializer_range": 0.2,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": ids[END],
        "pad_token_id": ids[PAD],
    }


def _tower(**own: object) -> dict[str, object]:
    return {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "patch_size": _PATCH,
        "initializer_range": TOWER_INIT,
        **own,
    }


def build_mistral3(path: Path, seed: int) -> None:
    """Write an untrained Mistral 3: its images keep their shape."""
    tokenizer = build_tokenizer({"image": "[IMG]", "row": "[IMG_BREAK]", "end": "[IMG_END]"})
    processor = PixtralProcessor(
        image_processor=PixtralImageProcessor(size={"longest_edge": 32}, patch_size=_PATCH * 2),
        tokenizer=tokenizer,
        patch_size=_PATCH,
        spatial_merge_size=2,
        chat_template=chat_template({"image": "[IMG]"}),
    )
    config = Mistral3Config(
        text_config=_text(tokenizer, "mistral"),
        vision_config=_tower(model_type="pixtral", image_size=32, head_dim=16),
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
        spatial_merge_size=2,
        tie_word_embeddings=False,
    )
    save(seeded(lambda: Mistral3ForConditionalGeneration(config), seed), processor, path)


def build_llava(path: Path, seed: int) -> None:
    """Write an untrained LLaVA 1.5."""
    tokenizer = build_tokenizer({"image": "<image>"})
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(
            size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}, do_center_crop=True
        ),
        tokenizer=tokenizer,
        patch_size=_PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat_template({"image": "<image>"}),
    )
    config = LlavaConfig(
        text_config=_text(tokenizer, "llama"),
        vision_config=_tower(model_type="clip_vision_model", image_size=16, projection_dim=32),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )
    save(seeded(lambda: LlavaForConditionalGeneration(config), seed), processor, path)
