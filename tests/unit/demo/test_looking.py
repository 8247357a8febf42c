"""The tasks that need a tool: the demonstrated calls show what answers the questions."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from mmrlhf_ray.config.environment import ToolsEnvironment
from mmrlhf_ray.data.encoding.encode import RawMedia, encode_prompt, encode_response, load_encoder
from mmrlhf_ray.data.media import DEFAULT_LIMITS, decode_audio, decode_image
from mmrlhf_ray.demo.looking import FAR, TASKS, Sizes, build
from mmrlhf_ray.environments.protocol import Shown
from mmrlhf_ray.environments.tool_environment import ToolEnvironment
from mmrlhf_ray.environments.tools import load_tools


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("looking") / "data"
    build(path, 0, Sizes(demonstrations=6, prompts_train=2, prompts_heldout=1))
    return path


def rows(path: Path) -> tuple[list[dict], dict[str, dict]]:
    media = {row["media_id"]: row for row in pq.read_table(path / "media.parquet").to_pylist()}
    return pq.read_table(path / "records.parquet").to_pylist(), media


def test_calls_show_what_the_demonstrations_saw(made: Path) -> None:
    records, media = rows(made / "demonstrations")
    config = ToolsEnvironment(
        kind="tools", tools=("crop", f"{made / 'recordings' / 'tool.py'}:hear"), call_format="words"
    )
    tools, tried = load_tools(config), set()
    for row in records:
        messages = json.loads(row["messages"])
        if len(messages) == 1:
            continue
        clips = [media[name] for name in row["media_ids"]]
        *before, seen = [Shown(clip["kind"], clip["mime"], clip["data"]) for clip in clips]
        call = messages[1]["content"][0]["text"]
        if row["task"] == "near_sound":
            continue  # a needless call, of any recording
        (shown,) = ToolEnvironment(config, tools, DEFAULT_LIMITS, before).step(call).observation
        assert isinstance(shown, Shown)
        decode = decode_image if shown.kind == "image" else lambda data: decode_audio(data, 16_000)
        assert np.allclose(np.asarray(decode(shown.data)), np.asarray(decode(seen.data)), atol=1e-3), row["task"]
        tried.add(row["task"])
    assert tried >= {*FAR}


def test_every_word_is_known(made: Path) -> None:
    encoder = load_encoder(made / "base")
    unknown = encoder.tokenizer.unk_token_id
    records, media = rows(made / "demonstrations")
    for row in records:
        prompt = encode_prompt(encoder, row["messages"], [RawMedia.of(media[name]) for name in row["media_ids"]])
        assert unknown not in prompt.token_ids
        assert unknown not in encode_response(encoder, row["response"])
    assert {row["task"] for row in rows(made / "prompts_heldout")[0]} == {*TASKS}


def test_prompts_that_need_a_tool_do_not_show_the_answer(made: Path) -> None:
    records, media = rows(made / "prompts_train")
    for row in records:
        shown = [media[name] for name in row["media_ids"]]
        if row["task"] == "far_sound":
            assert shown == []
        if row["task"] == "far_picture":
            assert decode_image(shown[0]["data"], DEFAULT_LIMITS).size == (64, 64)
