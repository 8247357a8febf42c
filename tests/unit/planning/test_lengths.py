"""How long a prompt with images is, told without decoding one."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from mmrlhf_ray.config.data import DataConfig
from mmrlhf_ray.data.encoding.encode import Encoder, RawMedia, encode_prompt, load_encoder
from mmrlhf_ray.data.records.readers import Records
from mmrlhf_ray.errors import DataError
from mmrlhf_ray.planning.lengths import check_lengths
from mmrlhf_ray.schema import MEDIA, PROMPT
from tests.unit.tiny import describe_tools

MARKS = {"gemma3": 3}
"""Tokens that a family's processor writes around an image."""
SIZES = ((56, 56), (300, 90), (64, 400))


def image(width: int, height: int, orientation: int = 1) -> bytes:
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    Image.new("RGB", (width, height)).save(file, "JPEG", exif=exif)
    return file.getvalue()


def prompt(media_ids: list[str]) -> dict[str, Any]:
    shown = [{"type": "image"}] * len(media_ids)
    messages = json.dumps([{"role": "user", "content": [*shown, {"type": "text", "text": "which one?"}]}])
    return {
        "prompt_id": "p",
        "task": "t",
        "modality": "image",
        "messages": messages,
        "media_ids": media_ids,
        "extras": "{}",
    }


def records(images: list[bytes]) -> Records:
    media = [{"media_id": str(n), "kind": "image", "data": data, "mime": "image/jpeg"} for n, data in enumerate(images)]
    rows = [prompt([str(n)]) for n in range(len(images))]
    tables = (pa.Table.from_pylist(rows, schema=PROMPT), pa.Table.from_pylist(media, schema=MEDIA))
    return Records(*tables, 0, "prompts.jsonl", tuple(range(len(rows))))


def tokens(encoder: Encoder, data: bytes) -> int:
    return len(encode_prompt(encoder, prompt(["0"])["messages"], [RawMedia("0", "image", data)]).token_ids)


def test_headers_tell_what_the_processor_makes_of_images(family_dir: Path) -> None:
    encoder = load_encoder(family_dir)
    images = [image(*size) for size in SIZES] + [image(64, 400, orientation=6)]
    for data in images:
        exact = tokens(encoder, data)
        check_lengths(encoder, records([data]), DataConfig(path="prompts.jsonl", max_prompt_tokens=exact), None)
        told = exact - MARKS.get(encoder.adapter.family, 0)
        shorter = DataConfig(path="prompts.jsonl", max_prompt_tokens=told - 1)
        with pytest.raises(DataError, match=rf"its prompt has {told} tokens .*, more than"):
            check_lengths(encoder, records([data]), shorter, None)


def test_tools_that_prompts_describe_count(omni: Path, tmp_path: Path) -> None:
    model = shutil.copytree(omni, tmp_path / "model")
    describe_tools(model)
    described = {"name": "crop", "description": "Show a part. " * 100, "parameters": {"type": "object"}}
    bare = load_encoder(model)
    encoder = load_encoder(model, tools=[{"type": "function", "function": described}])
    data = image(56, 56)
    exact = tokens(encoder, data)
    assert exact > tokens(bare, data) + 50
    limits = DataConfig(path="prompts.jsonl", max_prompt_tokens=exact - 1)
    check_lengths(bare, records([data]), limits, None)
    with pytest.raises(DataError, match=f"its prompt has {exact} tokens"):
        check_lengths(encoder, records([data]), limits, None)
