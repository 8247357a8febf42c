"""Tiny Qwen2.5-VL, Qwen3-VL and Qwen3-Omni."""

from pathlib import Path
from typing import Any

from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3OmniMoeConfig,
    Qwen3OmniMoeProcessor,
    Qwen3OmniMoeThinkerForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
    WhisperFeatureExtractor,
)

from mmrlhf_ray.demo.families.save import generation, rename_weights, save, seeded
from mmrlhf_ray.demo.families.sizes import HEADS, HIDDEN, TOWER_INIT, text_config
from mmrlhf_ray.demo.families.tokens import BOXES, END, PAD, build_tokenizer, chat_template

_SIZE = {"shortest_edge": 16 * 16, "longest_edge": 32 * 32}
_PATCHES = {"patch_size": 4, "merge_size": 2, "temporal_patch_size": 2}
_VISION = {"size": _SIZE, **_PATCHES, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
_VISION_SHOWN = {
    "image": "<|vision_start|><|image_pad|><|vision_end|>",
    "video": "<|vision_start|><|video_pad|><|vision_end|>",
}
_VISION_TOKENS = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
}
_OMNI_TOKENS = {
    "image_token": "<|image_pad|>",
    "audio_token": "<|audio_pad|>",
    "video_token": "<|video_pad|>",
    "vision_bos_token": "<|vision_start|>",
    "vision_eos_token": "<|vision_end|>",
    "audio_bos_token": "<|audio_start|>",
    "audio_eos_token": "<|audio_end|>",
}


def _text(tokenizer: PreTrainedTokenizerFast, rope: dict[str, Any]) -> dict[str, Any]:
    ropes = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [6, 5, 5], **rope}
    return text_config(tokenizer, rope_parameters=ropes, tie_word_embeddings=False)


def _vision_tower(**own: Any) -> dict[str, Any]:
    return {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "patch_size": 4,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "out_hidden_size": HIDDEN,
        "initializer_range": TOWER_INIT,
        **own,
    }


_QWEN3_TOWER = {"num_position_embeddings": 64, "deepstack_visual_indexes": [0]}


def _vision_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    ids = tokenizer.get_vocab()
    return {f"{name}_id": ids[token] for name, token in _VISION_TOKENS.items()}


def build_qwen2_5_vl(path: Path, seed: int) -> None:
    """Write an untrained Qwen2.5-VL. As in its release two tokens end a response, and there are special tokens for
    boxes."""
    tokenizer = build_tokenizer(_VISION_TOKENS, BOXES)
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**_VISION),
        video_processor=Qwen2VLVideoProcessor(**_VISION, cap_pixels_per_frame=False, do_sample_frames=False),
        tokenizer=tokenizer,
        chat_template=chat_template(_VISION_SHOWN),
    )
    config = Qwen2_5_VLConfig(
        text_config=_text(tokenizer, {}),
        vision_config=_vision_tower(window_size=16, fullatt_block_indexes=[1]),
        tie_word_embeddings=False,
        **_vision_ids(tokenizer),
    )
    model = seeded(lambda: Qwen2_5_VLForConditionalGeneration(config), seed)
    save(model, processor, path, ends=(PAD, END))


def build_qwen3_vl(path: Path, seed: int) -> None:
    """Write an untrained Qwen3-VL."""
    tokenizer = build_tokenizer(_VISION_TOKENS)
    processor = Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(**_VISION),
        video_processor=Qwen3VLVideoProcessor(**_VISION, do_sample_frames=False),
        tokenizer=tokenizer,
        chat_template=chat_template(_VISION_SHOWN),
    )
    config = Qwen3VLConfig(
        text_config=_text(tokenizer, {"mrope_interleaved": True}) | {"head_dim": HIDDEN // HEADS},
        vision_config=_vision_tower(**_QWEN3_TOWER),
        tie_word_embeddings=False,
        **_vision_ids(tokenizer),
    )
    save(seeded(lambda: Qwen3VLForConditionalGeneration(config), seed), processor, path)


def build_qwen3_omni(path: Path, seed: int) -> None:
    """Write an untrained Qwen3-Omni: the thinker alone has weights."""
    tokenizer = build_tokenizer(_OMNI_TOKENS)
    # The processor class has a video size of its own, which only the tokenizer's arguments can replace.
    tokenizer.init_kwargs["size"] = _SIZE
    processor = Qwen3OmniMoeProcessor(
        image_processor=Qwen2VLImageProcessor(**_VISION),
        video_processor=Qwen2VLVideoProcessor(**_VISION, cap_pixels_per_frame=False, do_sample_frames=False),
        feature_extractor=WhisperFeatureExtractor(
            feature_size=32, sampling_rate=16_000, hop_length=160, n_fft=400, chunk_length=2, return_attention_mask=True
        ),
        tokenizer=tokenizer,
        chat_template=chat_template(
            _VISION_SHOWN | {"audio": "<|audio_start|><|audio_pad|><|audio_end|>"},
        ),
    )
    config = _omni_config(tokenizer)
    thinker = seeded(lambda: Qwen3OmniMoeThinkerForConditionalGeneration(config.thinker_config), seed)
    path.mkdir(parents=True, exist_ok=True)
    thinker.save_pretrained(path)  # splits the experts as releases do
    rename_weights(path, "", "thinker.")
    config.save_pretrained(path)
    processor.save_pretrained(path)
    generation(processor).save_pretrained(path)


def _omni_config(tokenizer: PreTrainedTokenizerFast) -> Qwen3OmniMoeConfig:
    ids = tokenizer.get_vocab()
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "decoder_sparse_step": 1}
    text = _text(tokenizer, {"mrope_interleaved": True}) | experts | {"head_dim": HIDDEN // HEADS}
    audio = {
        "num_mel_bins": 32,
        "encoder_layers": 2,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 64,
        "d_model": 32,
        "max_source_positions": 64,
        "n_window": 50,
        "n_window_infer": 400,
        "output_dim": HIDDEN,
        "downsample_hidden_size": 16,
        "initializer_range": TOWER_INIT,
    }
    thinker = {
        "text_config": text,
        "vision_config": _vision_tower(**_QWEN3_TOWER, image_size=32, apply_vit_abs_pos_embed=True),  # vLLM asks
        "audio_config": audio,
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "audio_token_id": ids["<|audio_pad|>"],
        "audio_start_token_id": ids["<|audio_start|>"],
        "audio_end_token_id": ids["<|audio_end|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "user_token_id": ids["u"],
        "pad_token_id": ids[PAD],
        "initializer_range": 0.2,
    }
    return Qwen3OmniMoeConfig(
        thinker_config=thinker,
        enable_audio_output=False,
        architectures=["Qwen3OmniMoeForConditionalGeneration"],
        dtype="float32",
    )
