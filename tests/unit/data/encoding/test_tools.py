"""Tools that prompts describe: demonstrations are encoded as the prompts that responses are sampled to."""

import json
from pathlib import Path

import pyarrow as pa
import pytest

from mmrlhf_ray.config import DataConfig
from mmrlhf_ray.config.environment import ToolsEnvironment
from mmrlhf_ray.data.batches.stream import StreamPlan, StreamReader
from mmrlhf_ray.data.encoding import training_rows
from mmrlhf_ray.data.encoding.encode import encode_prompt, load_encoder
from mmrlhf_ray.data.encoding.training_rows import EncodeOptions, encode_records
from mmrlhf_ray.data.records.rows import open_sources
from mmrlhf_ray.demo.families import FAMILIES
from mmrlhf_ray.environments.check import tool_schemas
from mmrlhf_ray.schema import DEMONSTRATION, MEDIA
from tests.unit.tiny import describe_tools


@pytest.fixture(params=FAMILIES)
def told(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A model of the family whose chat template describes tools."""
    FAMILIES[request.param](tmp_path / "model", 0)
    describe_tools(tmp_path / "model")
    return tmp_path / "model"


def test_demonstrations_describe_tools_as_prompts_do(
    told: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = ToolsEnvironment(kind="tools", tools=("crop", "python"))
    schemas = tool_schemas(environment)
    sampled = load_encoder(told, tools=schemas)
    messages = [{"role": "user", "content": "which digit ?"}]
    assert all(f'"{name}"' in sampled.rendered(messages, ask=True) for name in ("crop", "python"))
    chat = json.dumps(messages)
    prompt = encode_prompt(sampled, chat, []).token_ids
    monkeypatch.setattr(training_rows, "_clips", lambda _: {})
    record = {"prompt_id": "p", "messages": chat, "media_ids": [], "task": "t", "modality": "text", "extras": "{}"}
    rows = pa.Table.from_pylist([record | {"response": "7", "feedback": 0.0}], schema=DEMONSTRATION)
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "which digit ?", "prompt_id": "p", "response": "7"}))
    streamed = DataConfig(path=str(tmp_path / "rows.jsonl"), streaming=True)
    plain = encode_prompt(load_encoder(told), chat, []).token_ids
    assert len(plain) < len(prompt)
    for tools, wanted in ((schemas, prompt), ([], plain)):
        options = EncodeOptions(str(told), None, 4096, 8192, data=streamed, tools=json.dumps(tools))
        (row,) = encode_records(
            rows.append_column("row", pa.array([0], pa.int64())), options, [MEDIA.empty_table()]
        ).to_pylist()
        assert (row["problem"], row["context_token_ids"]) == ("", wanted)
        reader = StreamReader(StreamPlan(streamed, DEMONSTRATION, open_sources(streamed), options, seed=0))
        (read,) = reader.read([0]).rows.to_pylist()
        assert read["context_token_ids"] == wanted
