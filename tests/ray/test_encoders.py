"""Several encoders serve what one does: the same prompts at the same positions, every row by the same one of them."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray
from PIL import Image

from mmrlhf_ray.config import DataConfig
from mmrlhf_ray.data.records.quarantine import FILE_NAME
from mmrlhf_ray.data.records.readers import read_records
from mmrlhf_ray.runtime.actors import ActorGroup
from mmrlhf_ray.schema import PROMPT
from mmrlhf_ray.workers.roles.encoder import PromptEncoder
from mmrlhf_ray.workers.roles.prompts import PromptServer
from tests.ray.support import ANSWER_S, START_S, encoded_prompts, end

ROWS, PICTURES = 24, 8

pytestmark = pytest.mark.usefixtures("session")


def rows_of(directory: Path, bad: frozenset[int]) -> DataConfig:
    """Prompts that show eight pictures in turns; the bad ones are too long."""
    rng = np.random.default_rng(0)
    for number in range(PICTURES):
        Image.fromarray(rng.integers(0, 255, (56, 56, 3), np.uint8)).save(directory / f"{number}.png")
    rows = [
        {"prompt": "long " * 99 if n in bad else f"{n} ?", "prompt_id": f"p{n}", "images": [f"{n % PICTURES}.png"]}
        for n in range(ROWS)
    ]
    (directory / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return DataConfig(path=str(directory / "rows.jsonl"), max_prompt_tokens=64, on_bad_row="quarantine")


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pool")


@pytest.fixture(scope="module")
def server(model_dir: Path, scratch: Path) -> Iterator[PromptServer]:
    group = start(model_dir, rows_of(scratch, frozenset({5, 6})), scratch)
    yield PromptServer.check(group, ANSWER_S, START_S)
    end(group)


def start(model_dir: Path, config: DataConfig, scratch: Path) -> ActorGroup[PromptEncoder]:
    arguments = (str(model_dir), config, read_records(config, PROMPT, scratch), scratch, 0)
    handles = tuple(ray.remote(PromptEncoder).options(num_cpus=0).remote(*arguments) for _ in range(2))
    return ActorGroup(("encoder-0", "encoder-1"), handles)


def test_a_pool_serves_what_one_encoder_serves(server: PromptServer, model_dir: Path, scratch: Path) -> None:
    assert server.rows == ROWS - 2
    aside = [json.loads(line)["row"] for line in (scratch / FILE_NAME).read_text().splitlines()]
    assert aside == [5, 6], "what both found is set aside once"
    config = rows_of(scratch, frozenset({5, 6}))
    alone, media, _ = encoded_prompts(model_dir, config, scratch)
    positions = range(2 * server.rows)
    taken = [server.take(positions[first : first + 11]) for first in range(0, len(positions), 11)]
    rows = [row for prompts in taken for row in prompts.table.to_pylist()]
    assert [row["group_id"] for row in rows] == list(positions), "in the order asked for"
    by_id = {row["prompt_id"]: row for row in alone.to_pylist()}
    for row in rows:
        assert row | {"group_id": 0} == by_id[row["prompt_id"]] | {"group_id": 0}
    first, second = ([row["prompt_id"] for row in rows][n * server.rows : (n + 1) * server.rows] for n in range(2))
    assert len(set(first)) == server.rows
    assert first != second
    # All were encoded when they were checked, by the one that serves them.
    assert sum(prompts.stats.processor_calls for prompts in taken) == 0
    shown = {m for row in rows for m in row["media_ids"]}
    for prompts in taken:
        own = {m for ids in prompts.table.column("media_ids").to_pylist() for m in ids}
        for clips in (prompts.media, prompts.features):
            assert clips.keys() == own
            for media_id, ref in clips.items():
                assert set(ray.get(ref).column("media_id").to_pylist()) == {media_id}
    assert shown == set(media.column("media_id").to_pylist())
    owners = {(row["prompt_id"], server.shares.of(row["group_id"])) for row in rows}
    assert len(owners) == server.rows, "a row is always the same one's"
    assert {owner for _, owner in owners} == {0, 1}


def test_a_pool_serves_rows_in_the_order_of_the_file(server: PromptServer) -> None:
    ids = [f"p{n}" for n in range(ROWS) if n not in (5, 6)]
    assert server.slice(2, 13).table.column("prompt_id").to_pylist() == ids[2:13]
    assert server.slice(4, 5).table.column("prompt_id").to_pylist() == ids[4:5]
