"""The exported policy in plain transformers and plain vLLM, without a line of this project's code."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mmrlhf_ray.config import DataConfig
from mmrlhf_ray.data.records.readers import Records, read_records
from mmrlhf_ray.schema import PROMPT
from tests.e2e.conftest import Submitted

MODALITIES = ("text", "image", "audio", "image+audio", "video")

PRELUDE = """
import io, json, sys
import av, numpy, soundfile
from PIL import Image

def load(kind, path):
    data = open(path, "rb").read()
    if kind == "image":
        return Image.open(io.BytesIO(data)).convert("RGB")
    if kind == "audio":
        return soundfile.read(io.BytesIO(data), dtype="float32")[0]
    with av.open(io.BytesIO(data)) as clip:
        return numpy.stack([frame.to_ndarray(format="rgb24") for frame in clip.decode(video=0)])

cases, models = json.loads(open(sys.argv[1]).read()), json.loads(sys.argv[2])
"""
"""Of a script that is given a file of cases and a list of models, each a directory and perhaps an adapter's."""

TRANSFORMERS = (
    PRELUDE
    + """
import torch
from transformers import AutoProcessor, Qwen2_5OmniThinkerForConditionalGeneration

((model,),) = models
answers = []
processor = AutoProcessor.from_pretrained(model)
thinker = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(model, dtype=torch.float32)
names = {"image": "images", "audio": "audio", "video": "videos"}
for case in cases:
    text = processor.apply_chat_template(case["messages"], tokenize=False, add_generation_prompt=True)
    media = {}
    for kind, path in case["media"]:
        media.setdefault(names[kind], []).append(load(kind, path))
    inputs = processor(text=[text], **media, return_tensors="pt")
    ids = thinker.generate(**inputs, do_sample=False, max_new_tokens=8)[0, inputs["input_ids"].shape[1]:]
    answers.append(processor.tokenizer.decode(ids, skip_special_tokens=True))
print("ANSWERS " + json.dumps(answers))
"""
)

VLLM = (
    PRELUDE
    + """
from transformers import AutoProcessor
from vllm import LLM, SamplingParams

((model,),) = models
answers = []
processor = AutoProcessor.from_pretrained(model)
llm = LLM(model=model, dtype="float32", max_model_len=128, enforce_eager=True, max_num_seqs=8)
prompts = []
for case in cases:
    text = processor.apply_chat_template(case["messages"], tokenize=False, add_generation_prompt=True)
    media = {}
    for kind, path in case["media"]:
        item = load(kind, path)
        rate = processor.feature_extractor.sampling_rate
        media.setdefault(kind, []).append((item, rate) if kind == "audio" else item)
    prompts.append({"prompt": text, **({"multi_modal_data": media} if media else {})})
for output in llm.generate(prompts, SamplingParams(temperature=0.0, max_tokens=8)):
    answers.append(output.outputs[0].text)
print("ANSWERS " + json.dumps(answers))
"""
)

pytestmark = pytest.mark.e2e


@pytest.fixture
def cases(data_dir: Path, tmp_path: Path) -> list[dict[str, Any]]:
    """Two held-out prompts of each modality, their media in files."""
    read = read_records(DataConfig(path=str(data_dir / "prompts_heldout")), PROMPT, tmp_path)
    rows = read.records.to_pylist()
    chosen = [row for m in MODALITIES for row in [r for r in rows if r["modality"] == m][:2]]
    assert {row["modality"] for row in chosen} == set(MODALITIES)
    return [_case(row, read, tmp_path) for row in chosen]


def _case(row: dict[str, Any], read: Records, directory: Path) -> dict[str, Any]:
    clips = {m["media_id"]: m for m in read.media.to_pylist()}
    media = []
    for media_id in row["media_ids"]:
        (directory / media_id).write_bytes(clips[media_id]["data"])
        media.append((clips[media_id]["kind"], str(directory / media_id)))
    return {"messages": json.loads(row["messages"]), "media": media}


def _answers(script: str, model: Path, cases: Path) -> list[str]:
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    }
    done = subprocess.run(
        [sys.executable, "-c", script, str(cases), json.dumps([[str(model)]])],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("ANSWERS ")]
    return json.loads(line.removeprefix("ANSWERS "))


def test_greedy_answers_are_the_same_in_both(submitted: Submitted, cases: list[dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    of_transformers = _answers(TRANSFORMERS, submitted.run_dir / "model", tmp_path / "cases.json")
    of_vllm = _answers(VLLM, submitted.run_dir / "model", tmp_path / "cases.json")
    assert of_vllm == of_transformers
    assert len(set(of_vllm)) > 3  # the answers depend on what is asked and shown
