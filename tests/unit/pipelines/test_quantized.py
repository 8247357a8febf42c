"""`mmrlhf export --quantize`: what is written, what it costs, and what is refused."""

from pathlib import Path

import pytest

from mmrlhf_ray.errors import ConfigError, DataError
from mmrlhf_ray.models.card import read_card
from mmrlhf_ray.pipelines.export.quantized import quantize
from tests.command import Here


def test_the_loss_is_measured_printed_and_in_the_card(here: Here, omni: Path, data_dir: Path, tmp_path: Path) -> None:
    given = ["--quantize", "int8", "--data", str(data_dir / "demonstrations"), "--rows", "6"]
    done = here("export", str(omni), str(tmp_path / "out"), *given)
    assert done.returncode == 0, done.err
    first, second, *_ = done.out.splitlines()
    assert first.startswith(f"{tmp_path / 'out'}: int8, ")
    assert second.startswith("6 rows, ")
    card = read_card(tmp_path / "out")
    found = {own.metric_type: own.metric_value for own in card.data.eval_results}
    assert found.keys() == {"logprob_before", "logprob_after", "logprob_difference", "same_choice"}
    assert found["logprob_difference"] == pytest.approx(found["logprob_after"] - found["logprob_before"], abs=1e-6)
    assert 0 < abs(found["logprob_difference"]) < 0.1
    assert f"{found['logprob_before']:.4f}" in second
    assert (
        "## Quantisation\n\nOn demonstrations. The language model's linear layers are in eight bits (int8" in card.text
    )
    assert not list(tmp_path.glob(".*"))


def test_what_is_refused(omni: Path, data_dir: Path, tmp_path: Path) -> None:
    demonstrations = data_dir / "demonstrations"
    with pytest.raises(ConfigError, match="--quantize int3: expected one of fp8, int8, fp8-dynamic, int8-dynamic"):
        quantize(omni, tmp_path / "out", "int3", demonstrations, 2)
    with pytest.raises(ConfigError, match="expected a directory that is not there yet"):
        quantize(omni, tmp_path, "int8", demonstrations, 2)
    (tmp_path / "rows.jsonl").write_text('{"prompt": "what ?", "response": "a <|im_end|> b"}\n')
    with pytest.raises(DataError, match="rows.jsonl, line 1 .*control token.*; leave the row out or correct it"):
        quantize(omni, tmp_path / "out", "int8", tmp_path / "rows.jsonl", 2)
    assert not (tmp_path / "out").exists()
