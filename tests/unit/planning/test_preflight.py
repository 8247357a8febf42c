"""What the configuration of data asks for that no job can do is said before anything starts."""

from pathlib import Path
from typing import Any

import pytest

from mmrlhf_ray.config import DataConfig
from mmrlhf_ray.errors import ConfigError
from mmrlhf_ray.planning.preflight import check_training_data, refuse_streaming

SOURCES = [{"path": "a.jsonl", "weight": 2.0}, {"path": "b.jsonl"}]


def config(**changes: Any) -> DataConfig:
    return DataConfig.model_validate({"path": "a.jsonl"} | changes)


def test_augmentation_needs_a_stream() -> None:
    augment = {"tasks": ["t"], "image": {"crop": 0.1}}
    check_training_data(config(augment=augment, streaming=True))
    with pytest.raises(ConfigError, match="set data.streaming to true"):
        check_training_data(config(augment=augment))


def test_weights_need_a_stream_where_every_row_counts_once() -> None:
    mixture = DataConfig.model_validate({"sources": SOURCES})
    check_training_data(mixture)
    check_training_data(mixture.model_copy(update={"streaming": True}), weighted=False)
    check_training_data(DataConfig.model_validate({"sources": [{"path": "a"}, {"path": "b"}]}), weighted=False)
    with pytest.raises(ConfigError, match="set data.streaming to true or drop weight"):
        check_training_data(mixture, weighted=False)


def test_a_spill_directory_must_be_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="spill_dir .* cannot be written to"):
        check_training_data(config(spill_dir=str(tmp_path / "file")))


def test_who_needs_all_rows_refuses_a_stream() -> None:
    refuse_streaming(None, "it")
    refuse_streaming(config(), "it")
    with pytest.raises(ConfigError, match="data.streaming: it needs all rows before it starts"):
        refuse_streaming(config(streaming=True), "it")
