"""Tiny Gemma 3 and InternVL."""

from pathlib import Path

import torch
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessor,
    Gemma3Processor,
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
)

from mmrlhf_ray.demo.families.save import save, seeded
from mmrlhf_ray.demo.families.sizes import HEADS, HIDDEN, TOWER_INIT, text_config, vision_config
from mmrlhf_ray.demo.families.tokens import END, PAD, build_tokenizer, chat_template

_SIDE = 16
_TOKENS_PER_IMAGE = 4
_SIZE = {"height": _SIDE, "width": _SIDE}


def build_gemma3(path: Path, seed: int) -> None:
    """Write an untrained Gemma 3. Its embeddings are its vocabulary head, and its second layer sees all positions. As
    in its release both template and tokenizer write BOS, and the first of two tokens that end a response is not the
    one that the template writes."""
    media_tokens = {
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
        "image_token": "<image_soft_token>",
    }
    tokenizer = build_tokenizer(media_tokens, bos=True)
    processor = Gemma3Processor(
        image_processor=Gemma3ImageProcessor(size=_SIZE),
        tokenizer=tokenizer,
        image_seq_length=_TOKENS_PER_IMAGE,
        chat_template=chat_template({"image": "<start_of_image>"}, bos=True),
    )
    ids = tokenizer.get_vocab()
    config = Gemma3Config(
        text_config=text_config(
            tokenizer,
            head_dim=HIDDEN // HEADS,
            query_pre_attn_scalar=HIDDEN // HEADS,
            sliding_window=16,
            layer_types=["sliding_attention", "full_attention"],
        ),
        vision_config=vision_config(image_size=_SIDE, vision_use_head=False),
        mm_tokens_per_image=_TOKENS_PER_IMAGE,
        boi_token_index=ids["<start_of_image>"],
        eoi_token_index=ids["<end_of_image>"],
        image_token_index=ids["<image_soft_token>"],
        eos_token_id=[ids[PAD], ids[END]],
    )
    model = seeded(lambda: _with_projection(Gemma3ForConditionalGeneration(config)), seed)
    save(model, processor, path, {"vision_tower.": "vision_tower.vision_model."}, ends=(PAD, END))


def _with_projection(model: Gemma3ForConditionalGeneration) -> Gemma3ForConditionalGeneration:
    """The class starts with zeros, through which no image is seen."""
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=TOWER_INIT)
    return model


def build_internvl(path: Path, seed: int) -> None:
    """Write an untrained InternVL in Hugging Face format, whose language model is a Qwen2."""
    media_tokens = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    tokenizer = build_tokenizer(media_tokens)
    processor = InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(size=_SIZE, crop_to_patches=True, min_patches=1, max_patches=4),
        video_processor=InternVLVideoProcessor(size=_SIZE, do_sample_frames=False),
        tokenizer=tokenizer,
        image_seq_length=_TOKENS_PER_IMAGE,
        chat_template=chat_template({"image": "<IMG_CONTEXT>\n", "video": "<video>\n"}),
    )
    ids = tokenizer.get_vocab()
    config = InternVLConfig(
        text_config=text_config(tokenizer, model_type="qwen2", tie_word_embeddings=False),
        vision_config=vision_config(image_size=_SIDE),
        image_token_id=ids["<IMG_CONTEXT>"],
        image_seq_length=_TOKENS_PER_IMAGE,
        tie_word_embeddings=False,
    )
    save(seeded(lambda: InternVLForConditionalGeneration(config), seed), processor, path)
