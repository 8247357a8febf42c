"""What crosses the object store when eight responses are sampled for each prompt: every clip once, and no more."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from PIL import Image
from ray.experimental import get_object_locations

from mmrlhf_ray.config import DataConfig, ModelConfig, SamplingConfig
from mmrlhf_ray.data.records.readers import read_records
from mmrlhf_ray.runtime.actors import ActorGroup
from mmrlhf_ray.schema import PROMPT
from mmrlhf_ray.workers.roles.encoder import PromptEncoder
from mmrlhf_ray.workers.roles.generator import Generator, Generators
from mmrlhf_ray.workers.roles.prompts import PromptServer
from tests.ray.support import ANSWER_S, START_S, end, start_generators

PROMPTS, SAMPLES = 8, 8

pytestmark = pytest.mark.usefixtures("session")


@pytest.fixture(scope="module")
def generators(model_dir: Path) -> Iterator[Generators]:
    generators = start_generators(SamplingConfig(max_response_tokens=4), ModelConfig(path=str(model_dir)), Generator)
    yield generators
    end(generators.group)


def rows_of(directory: Path) -> Path:
    """Twelve prompts that show three pictures in turns."""
    rng = np.random.default_rng(0)
    for number in range(3):
        pixels = rng.integers(0, 255, (480, 480, 3), np.uint8)  # noise, which PNG cannot compress
        Image.fromarray(pixels).save(directory / f"{number}.png")
    rows = [{"prompt": f"{n} ?", "prompt_id": f"p{n}", "images": [f"{n % 3}.png"]} for n in range(12)]
    (directory / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return directory / "rows.jsonl"


@pytest.mark.parametrize("streaming", [False, True])
def test_every_clip_crosses_once(
    streaming: bool, generators: Generators, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = DataConfig(path=str(rows_of(tmp_path)), max_prompt_tokens=64, streaming=streaming, check_rows=1)
    records = read_records(config, PROMPT, tmp_path)
    encoder = ray.remote(PromptEncoder).options(num_cpus=0).remote(str(model_dir), config, records, tmp_path, 0)
    group = ActorGroup(("encoder-0",), (encoder,))
    server = PromptServer.check(group, ANSWER_S, START_S)
    crossed: list[ray.ObjectRef] = []
    put = ray.put
    monkeypatch.setattr(ray, "put", lambda value: crossed.append(put(value)) or crossed[-1])

    prompts = server.take(range(PROMPTS))
    rollouts = generators.generate(prompts, SAMPLES)
    # What the generator returned was put once more for the other roles.
    clips = [*prompts.media.values(), *prompts.features.values()]
    crossed += [*clips, *prompts.records, rollouts.ref]
    end(group)

    assert len(rollouts.table) == PROMPTS * SAMPLES
    shown = {media_id for ids in prompts.table.column("media_ids").to_pylist() for media_id in ids}
    assert len(shown) == 3
    assert prompts.media.keys() == prompts.features.keys() == shown
    assert 0 < prompts.stats.processor_calls <= PROMPTS
    raw = sum(len((tmp_path / f"{n}.png").read_bytes()) for n in range(3))
    features = ray.get(list(prompts.features.values()))
    unique = raw + sum(len(data) for own in features for data in own.column("data").to_pylist())
    assert prompts.stats.media_bytes == unique
    sizes = [size_of(ref) for ref in crossed]
    assert sum(sizes) <= 1.1 * unique, "everything that was put or returned, tokens included"


def size_of(ref: Any) -> int:
    ray.wait([ref], timeout=ANSWER_S)
    return int(get_object_locations([ref])[ref]["object_size"])
