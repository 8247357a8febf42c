"""A tiny, real Qwen2.5-Omni: the thinker with vision and audio towers, untrained, as a Hugging Face directory."""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2_5OmniConfig,
    Qwen2_5OmniProcessor,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    WhisperFeatureExtractor,
)

from mmrlhf_ray.demo.digits import SIDE
from mmrlhf_ray.demo.tasks import vocabulary
from mmrlhf_ray.demo.tones import SAMPLE_RATE

CONTEXT_TOKENS = 512

_PAD, _UNK, _START, _END = "<|endoftext|>", "<unk>", "<|im_start|>", "<|im_end|>"
# Names that the processor asks of its tokenizer.
_MEDIA_TOKENS = {
    "image_token": "<|IMAGE|>",
    "audio_token": "<|AUDIO|>",
    "video_token": "<|VIDEO|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
}

# A picture of SIDE × SIDE becomes 4 × 4 patches, merged to 2 × 2 tokens; a clip has two frames to a patch.
_PATCH, _MERGE, _FRAMES_PER_PATCH = 4, 2, 2
_VISION_SIZE = {"shortest_edge": SIDE * SIDE, "longest_edge": SIDE * SIDE}
_MEL_BINS, _HOP = 64, 320
_HIDDEN = 128

# At this width the usual 0.02 starves the towers: with these the tones and clips are learnt twice as fast.
_INIT, _TOWER_INIT = 0.05, 0.1

_VISION_TOWER = {
    "depth": 2,
    "hidden_size": 96,
    "intermediate_size": 192,
    "num_heads": 3,
    "patch_size": _PATCH,
    "spatial_merge_size": _MERGE,
    "temporal_patch_size": _FRAMES_PER_PATCH,
    "window_size": SIDE,
    "fullatt_block_indexes": [0, 1],
    "out_hidden_size": _HIDDEN,
    "initializer_range": _TOWER_INIT,
}
_AUDIO_TOWER = {
    "num_mel_bins": _MEL_BINS,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 128,
    "d_model": 64,
    "max_source_positions": 64,
    "n_window": 50,
    "output_dim": _HIDDEN,
    "initializer_range": _TOWER_INIT,
}

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message.role + '\n' }}"
    "{%- if message.content is string -%}{{ message.content }}{%- else -%}"
    "{%- for part in message.content -%}"
    "{%- if part.type == 'image' -%}<|vision_bos|><|IMAGE|><|vision_eos|>"
    "{%- elif part.type == 'audio' -%}<|audio_bos|><|AUDIO|><|audio_eos|>"
    "{%- elif part.type == 'video' -%}<|vision_bos|><|VIDEO|><|vision_eos|>"
    "{%- elif part.type == 'text' -%}{{ part.text }}"
    "{%- endif -%}{%- endfor -%}{%- endif -%}<|im_end|>"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)


def build_tokenizer(more_words: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """One token per word of the demo's language and of `more_words`, the space before it included.

    Tokens that carry their own space decode to the same text whatever precedes them, so a sampler that streams text
    after a prompt agrees with decoding the response alone.
    """
    special = [_PAD, _UNK, _START, _END, *_MEDIA_TOKENS.values()]
    words = ["system", "user", "assistant", *vocabulary(), *more_words]
    tokens = dict.fromkeys([*special, "\n", *words, *(f" {word}" for word in words)])
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token=_UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n| ?[^ \n]+"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=_PAD,
        unk_token=_UNK,
        eos_token=_END,
        extra_special_tokens=_MEDIA_TOKENS,
        clean_up_tokenization_spaces=False,
        model_max_length=CONTEXT_TOKENS,
        padding_side="left",
        # The processor class has a video size of its own (100,352 pixels and up). Only what the tokenizer was
        # made with takes precedence over it without every caller passing a size.
        size=_VISION_SIZE,
    )


def build_processor(more_words: Sequence[str] = ()) -> Qwen2_5OmniProcessor:
    """Pictures and frames of SIDE × SIDE pixels, at most one second of sound."""
    vision = {
        "size": _VISION_SIZE,
        "patch_size": _PATCH,
        "merge_size": _MERGE,
        "temporal_patch_size": _FRAMES_PER_PATCH,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    return Qwen2_5OmniProcessor(
        image_processor=Qwen2VLImageProcessor(**vision),
        video_processor=Qwen2VLVideoProcessor(**vision, cap_pixels_per_frame=False, do_sample_frames=False),
        feature_extractor=WhisperFeatureExtractor(
            feature_size=_MEL_BINS,
            sampling_rate=SAMPLE_RATE,
            hop_length=_HOP,
            n_fft=400,
            chunk_length=1,
            return_attention_mask=True,
        ),
        tokenizer=build_tokenizer(more_words),
        chat_template=CHAT_TEMPLATE,
    )


def build_config(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5OmniConfig:
    """The full omni configuration; only the thinker has weights."""
    ids = tokenizer.get_vocab()
    text = {
        "vocab_size": len(ids),
        "hidden_size": _HIDDEN,
        "intermediate_size": 320,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": CONTEXT_TOKENS,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 6, 6]},
        "tie_word_embeddings": False,
        "pad_token_id": ids[_PAD],
        "eos_token_id": ids[_END],
        "initializer_range": _INIT,
    }
    thinker = {
        "text_config": text,
        "vision_config": dict(_VISION_TOWER),
        "audio_config": dict(_AUDIO_TOWER),
        "image_token_index": ids["<|IMAGE|>"],
        "video_token_index": ids["<|VIDEO|>"],
        "audio_token_index": ids["<|AUDIO|>"],
        "audio_start_token_id": ids["<|audio_bos|>"],
        "audio_end_token_id": ids["<|audio_eos|>"],
        "vision_start_token_id": ids["<|vision_bos|>"],
        "vision_end_token_id": ids["<|vision_eos|>"],
        "user_token_id": ids["user"],
        "pad_token_id": ids[_PAD],
        "tie_word_embeddings": False,
        "initializer_range": _INIT,
    }
    return Qwen2_5OmniConfig(
        thinker_config=thinker,
        # The talker has no weights here; its default token ids are checked against its vocabulary all the same.
        talker_config={"vocab_size": 152_064},
        enable_audio_output=False,
        architectures=["Qwen2_5OmniModel"],
        dtype="float32",
    )


def build_model(path: Path, seed: int, more_words: Sequence[str] = ()) -> None:
    """Write the untrained model, its processor and generation defaults to `path`. `more_words`: that it knows beyond
    those of Omni-Digits.

    The directory loads with `Qwen2_5OmniThinkerForConditionalGeneration`, `AutoProcessor` and vLLM's `LLM`.
    """
    path.mkdir(parents=True, exist_ok=True)
    processor = build_processor(more_words)
    config = build_config(processor.tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        thinker = Qwen2_5OmniThinkerForConditionalGeneration(config.thinker_config)
    weights = {f"thinker.{name}": tensor.contiguous() for name, tensor in thinker.state_dict().items()}
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(path)
    processor.save_pretrained(path)
    ids = processor.tokenizer.get_vocab()
    GenerationConfig(eos_token_id=ids[_END], pad_token_id=ids[_PAD]).save_pretrained(path)
