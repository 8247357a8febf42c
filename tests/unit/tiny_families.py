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

from mmrlhf_ray.demo.families.save import save, seeded
from mmrlhf_ray.demo.families.sizes import HEADS, HIDDEN, text_config, vision_config
from mmrlhf_ray.demo.families.tokens import END, PAD, build_tokenizer, chat_template

THINKING = ("[THINK]", "[/THINK]")
_PATCH = 4


def _text(tokenizer: PreTrainedTokenizerFast, model_type: str) -> dict[str, object]:
    own = {"head_dim": HIDDEN // HEADS, "sliding_window": None, "tie_word_embeddings": False}
    return text_config(tokenizer, model_type=model_type, **own)


def build_mistral3(path: Path, seed: int) -> None:
    """Write an untrained Mistral 3: its images keep their shape, its template and its tokenizer write BOS, and there
    are special tokens for thinking."""
    tokenizer = build_tokenizer({"image": "[IMG]", "row": "[IMG_BREAK]", "end": "[IMG_END]"}, THINKING, bos=True)
    processor = PixtralProcessor(
        image_processor=PixtralImageProcessor(size={"longest_edge": 32}, patch_size=_PATCH * 2),
        tokenizer=tokenizer,
        patch_size=_PATCH,
        spatial_merge_size=2,
        chat_template=chat_template({"image": "[IMG]"}, bos=True),
    )
    config = Mistral3Config(
        text_config=_text(tokenizer, "mistral"),
        vision_config=vision_config(model_type="pixtral", image_size=32, head_dim=16),
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
        spatial_merge_size=2,
        tie_word_embeddings=False,
    )
    model = seeded(lambda: Mistral3ForConditionalGeneration(config), seed)
    save(model, processor, path, ends=(PAD, END))


def build_llava(path: Path, seed: int) -> None:
    """Write an untrained LLaVA 1.5: its tokenizer writes BOS, its template does not."""
    tokenizer = build_tokenizer({"image": "<image>"}, bos=True)
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
        vision_config=vision_config(model_type="clip_vision_model", image_size=16, projection_dim=32),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )
    save(seeded(lambda: LlavaForConditionalGeneration(config), seed), processor, path)
