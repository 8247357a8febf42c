"""What a user may get wrong: one clear message that names the place and the remedy, and no trace of Python or Ray.

Two are commands of their own, one that ends before Ray starts and one after; the others run in this process.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from mmrlhf_ray.demo.digits import digit_png, digits_of
from tests.command import Here
from tests.e2e.support import mmrlhf, overrides, refused

pytestmark = pytest.mark.e2e


def _empty_wav() -> bytes:
    """A complete header of a sound of no samples."""
    header = b"fmt \x10\x00\x00\x00\x01\x00\x01\x00\x80\x3e\x00\x00\x00\x7d\x00\x00\x02\x00\x10\x00"
    body = b"WAVE" + header + b"data\x00\x00\x00\x00"
    return b"RIFF" + len(body).to_bytes(4, "little") + body


def _jsonl(path: Path, *rows: Mapping[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_job_file_that_is_not_there(tmp_path: Path) -> None:
    refused(mmrlhf("ppo", "nowhere.yaml", cwd=tmp_path), "nowhere.yaml")


def test_rows_that_cannot_be_used_are_named_with_what_to_do(ppo_job: Path, tmp_path: Path) -> None:
    picture = digit_png(digits_of("train")[0].source)
    (tmp_path / "whole.png").write_bytes(picture)
    (tmp_path / "half.png").write_bytes(picture[: len(picture) // 2])
    (tmp_path / "silence.wav").write_bytes(_empty_wav())
    question = "which digit is written ?"
    prompts = _jsonl(
        tmp_path / "prompts.jsonl",
        {"prompt_id": "fine", "prompt": f"<image>{question}", "images": ["whole.png"], "facts": ""},
        {"prompt_id": "one-too-few", "prompt": f"<image><image>{question}", "images": ["whole.png"], "facts": ""},
        {"prompt_id": "half", "prompt": f"<image>{question}", "images": ["half.png"], "facts": ""},
        {"prompt_id": "silent", "prompt": f"<audio>{question}", "audios": ["silence.wav"], "facts": ""},
        {"prompt_id": "gone", "prompt": f"<image>{question}", "images": ["gone.png"], "facts": ""},
    )
    asked = overrides(output_dir=tmp_path, data__path=prompts, data__on_bad_row="fail")
    finished = mmrlhf("ppo", str(ppo_job), *asked, cwd=tmp_path)
    refused(
        finished,
        "4 of 5 rows cannot be used",
        "line 2 (one-too-few): ",
        "line 3 (half): image half.png: ",
        "line 4 (silent): audio silence.wav: ",
        "line 5 (gone): 'gone.png' cannot be opened",
        "replace the file",
    )
    assert "(fine)" not in finished.err


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ("data.path=nowhere/prompts.jsonl", ("nowhere/prompts.jsonl does not exist", "correct the path")),
        ("policy.path=nowhere/model", ("nowhere/model: no such model directory", "check the path")),
        ("algorithm.kl_coeff=0.1", ("algorithm.kl_coeff", "kl_coef")),
        ("algorithm.mini_batch_size=7", ("algorithm.mini_batch_size=7", "must be a multiple")),
        ("sampling.max_response_tokens=5000", ("learner.engine.micro_batch_tokens=4096 is less than",)),
        (
            "rewards=[{{name: rm, kind: model, model: {{path: {model_dir}}}}}]",
            ("scalar_head.safetensors", "mmrlhf reward-model"),
        ),
        ("rewards=[{{name: f, kind: function, function: exact_mach}}]", ("exact_mach", "exact_match")),
        ("algorithm={{advantage_estimator: grpo}}", ("n_samples_per_prompt",)),
        (
            "placement.policy.replicas=24",
            ("has 2 CPUs, the job needs 5.8: ", "lower placement.policy.num_cpus", "This would fit:"),
        ),
    ],
)
def test_wrong_keys(
    here: Here, ppo_job: Path, model_dir: Path, tmp_path: Path, wrong: str, expected: tuple[str, ...]
) -> None:
    asked = [f"output_dir={tmp_path}", wrong.format(model_dir=model_dir)]
    refused(here("ppo", str(ppo_job), *asked, cwd=tmp_path), *expected)


def test_a_prompt_that_is_longer_than_the_context(here: Here, ppo_job: Path, tmp_path: Path) -> None:
    asked = overrides(output_dir=tmp_path, data__on_bad_row="quarantine", data__max_prompt_tokens=8)
    refused(
        here("ppo", str(ppo_job), *asked, cwd=tmp_path),
        "no usable row",
        "tokens (media included), more than data.max_prompt_tokens=8",
        "raise data.max_prompt_tokens",
    )


def test_a_demonstration_that_is_longer_than_the_context(
    here: Here, model_dir: Path, data_dir: Path, tmp_path: Path
) -> None:
    """Its text alone is too long, which is seen before Ray starts."""
    rows = pq.read_table(data_dir / "demonstrations" / "records.parquet").to_pylist()
    text = next(row for row in rows if row["modality"] == "text")
    long = {"messages": [{"role": "user", "content": "is 3 even or odd ? " * 20}], "response": "answer : odd"}
    demonstrations = _jsonl(
        tmp_path / "demonstrations.jsonl",
        {"prompt_id": "short", "messages": json.loads(text["messages"]), "response": text["response"]},
        {"prompt_id": "long", **long},
    )
    job = tmp_path / "sft.yaml"
    job.write_text(f"job: sft\nname: sft\nmodel: {{path: {model_dir}}}\nsteps: 1\nbatch_size: 2\n")
    asked = overrides(data__path=demonstrations, data__max_prompt_tokens=64, workers__num_cpus=0.2, device="cpu")
    refused(
        here("sft", str(job), *asked, cwd=tmp_path),
        "1 of 2 rows cannot be used",
        "demonstrations.jsonl, line 2 (long): ",
        "max_prompt_tokens",
    )
