import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file


@pytest.fixture
def model_directory(tmp_path: Path) -> Path:
    """An omni model's config and weights in two files; only the names, shapes and config matter."""
    directory = tmp_path / "model"
    directory.mkdir()
    text = {
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 11,
        "max_position_embeddings": 512,
    }
    (directory / "config.json").write_text(json.dumps({"thinker_config": {"text_config": text}}))
    save_file({"thinker.a": np.zeros((3, 5), np.float32)}, directory / "model-1.safetensors")
    save_file(
        {"thinker.b": np.zeros(7, np.float16), "talker.c": np.zeros((100, 100), np.float32)},
        directory / "model-2.safetensors",
    )
    return directory
