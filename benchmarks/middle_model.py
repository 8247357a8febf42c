"""A Qwen2.5-VL of 63M parameters with random weights: large enough that the model is what takes the time."""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from mmrlhf_ray.data.encoding.encode import load_encoder
from mmrlhf_ray.demo.families import FAMILIES

SIDE = 80
"""Of its pictures, which are 100 tokens each."""


def build_middle(path: Path, seed: int = 0) -> None:
    """Write the model, its processor and generation defaults. With so few tokens a response ends by chance."""
    with TemporaryDirectory() as scratch:
        tiny = Path(scratch)
        FAMILIES["qwen2_5_vl"](tiny, seed)
        encoder = load_encoder(tiny)
        architecture = encoder.adapter.architecture(tiny)
        config = type(architecture.config).from_pretrained(str(tiny))
        generation = architecture.generation_config.from_pretrained(str(tiny))
    text, vision = config.text_config, config.vision_config
    text.hidden_size, text.intermediate_size, text.num_hidden_layers = 512, 2048, 14
    text.layer_types = ["full_attention"] * 14
    text.num_attention_heads, text.num_key_value_heads = 8, 4
    text.rope_parameters = {**text.rope_parameters, "mrope_section": [12, 10, 10]}
    vision.hidden_size, vision.intermediate_size, vision.depth, vision.num_heads = 256, 1024, 6, 8
    vision.out_hidden_size = 512
    # Those of the tiny model would amplify rounding from layer to layer.
    config.initializer_range = text.initializer_range = vision.initializer_range = 0.02
    torch.manual_seed(seed)
    model = type(architecture)._from_config(config)
    model.generation_config = generation
    model.save_pretrained(path)
    encoder.processor.image_processor.size = {"shortest_edge": SIDE * SIDE, "longest_edge": SIDE * SIDE}
    encoder.processor.save_pretrained(path)
