"""Models and prompts that the checks of a GPU run on; made here, with random weights."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image

from mmrlhf_ray.data.encoding.encode import load_encoder
from mmrlhf_ray.demo.families import FAMILIES

PROMPTS = 64
SIDE = 160
"""Of the pictures."""


def reward_of_length(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    """A reward that any policy can raise."""
    return [min(len(completion), 200) / 200 for completion in completions]


def write_prompts(directory: Path, *, answers: bool = False) -> Path:
    """Rows with a picture each; `answers`: demonstrations."""
    rng = np.random.default_rng(0)
    directory.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(PROMPTS):
        name = f"{number}.png"
        Image.fromarray(rng.integers(0, 255, (SIDE, SIDE, 3), np.uint8)).save(directory / name)
        row = {"prompt_id": f"p{number}", "prompt": "what do you see ?", "images": [name]}
        rows.append(row | ({"response": "one two three"} if answers else {}))
    file = directory / ("demonstrations.jsonl" if answers else "prompts.jsonl")
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def build_vl(path: Path, *, hidden: int, layers: int, heads: int) -> Path:
    """A Qwen2.5-VL of this size with random weights in bfloat16, and the tokenizer of the tests' family."""
    with TemporaryDirectory() as scratch:
        tiny = Path(scratch)
        FAMILIES["qwen2_5_vl"](tiny, 0)
        encoder = load_encoder(tiny)
        architecture = encoder.adapter.architecture(tiny)
        config = type(architecture.config).from_pretrained(str(tiny))
        generation = architecture.generation_config.from_pretrained(str(tiny))
    text, vision = config.text_config, config.vision_config
    text.hidden_size, text.intermediate_size, text.num_hidden_layers = hidden, 4 * hidden, layers
    text.layer_types = ["full_attention"] * layers
    text.num_attention_heads, text.num_key_value_heads = heads, max(1, heads // 4)
    eighth = hidden // heads // 8
    text.rope_parameters = {**text.rope_parameters, "mrope_section": [2 * eighth, eighth, eighth]}
    vision.hidden_size, vision.intermediate_size, vision.depth, vision.num_heads = hidden // 2, 2 * hidden, 6, 8
    vision.out_hidden_size = hidden
    config.initializer_range = text.initializer_range = vision.initializer_range = 0.02
    torch.manual_seed(0)
    model = type(architecture)._from_config(config).to(torch.bfloat16)
    model.generation_config = generation
    model.save_pretrained(path)
    encoder.processor.image_processor.size = {"shortest_edge": SIDE * SIDE, "longest_edge": SIDE * SIDE}
    encoder.processor.save_pretrained(path)
    return path


def half_billion(path: Path) -> Path:
    """Of the class of 0.5B parameters."""
    return build_vl(path, hidden=1152, layers=22, heads=16)


def small(path: Path) -> Path:
    """Of a few million parameters, for machines without a GPU."""
    return build_vl(path, hidden=128, layers=2, heads=4)
