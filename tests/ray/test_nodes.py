"""Four nodes: each receives the media and features of its own rows and no others, and of a clip one copy."""

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from PIL import Image
from ray.cluster_utils import Cluster
from ray.experimental import get_object_locations

from mmrlhf_ray.config import DataConfig
from mmrlhf_ray.data.batches.batching import PassBudget, Shard, plan_shards
from mmrlhf_ray.data.encoding.encode import load_encoder
from mmrlhf_ray.data.records.readers import read_records
from mmrlhf_ray.demo.families.qwen import build_qwen2_5_vl
from mmrlhf_ray.pipelines.ppo.experience import mini_batches
from mmrlhf_ray.rollout.batch import Clips, Prompts, Rollouts, concat_rollouts, shown
from mmrlhf_ray.runtime.actors import ActorGroup
from mmrlhf_ray.schema import PROMPT
from mmrlhf_ray.workers.roles.answers import divide
from mmrlhf_ray.workers.roles.encoder import PromptEncoder
from mmrlhf_ray.workers.roles.generator import Generators, one_by_one
from mmrlhf_ray.workers.roles.learner import Learners
from mmrlhf_ray.workers.roles.prompts import PromptServer
from mmrlhf_ray.workers.roles.reference import References
from tests.ray.light_fleet import Light
from tests.ray.support import ANSWER_S, START_S

PROMPTS, PICTURES, SIDE = 24, 12, 320


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[str]]:
    """Ids of four Ray nodes, which have the resources n0 … n3."""
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "resources": {"n0": 1}, "object_store_memory": 200 << 20},
    )
    for number in range(1, 4):
        cluster.add_node(num_cpus=1, resources={f"n{number}": 1}, object_store_memory=200 << 20)
    try:
        ray.init(address=cluster.address, logging_level=logging.ERROR)
        by_resource = {name: node["NodeID"] for node in ray.nodes() for name in node["Resources"]}
        yield [by_resource[f"n{number}"] for number in range(4)]
    finally:
        ray.shutdown()
        cluster.shutdown()


def on(node: int, kind: type, *arguments: Any) -> Any:
    return ray.remote(kind).options(num_cpus=0, resources={f"n{node}": 0.1}).remote(*arguments)


def group(role: str, places: Sequence[int]) -> ActorGroup[Any]:
    """Actors that answer without models, one on each of these nodes."""
    names = tuple(f"{role}-{number}" for number in range(len(places)))
    return ActorGroup(names, tuple(on(node, Light) for node in places))


def rows_of(directory: Path) -> Path:
    rng = np.random.default_rng(0)
    for number in range(PICTURES):  # noise, which PNG cannot compress
        Image.fromarray(rng.integers(0, 255, (SIDE, SIDE, 3), np.uint8)).save(directory / f"{number}.png")
    rows = [{"prompt": f"{n} ?", "prompt_id": f"p{n}", "images": [f"{n % PICTURES}.png"]} for n in range(PROMPTS)]
    (directory / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return directory / "rows.jsonl"


def large_pictures(path: Path) -> Path:
    """A model with a processor that leaves pictures large: what is small Ray keeps with its owner, on no node."""
    build_qwen2_5_vl(path, seed=0)
    processor = load_encoder(path).processor
    processor.image_processor.size = {"shortest_edge": 160 * 160, "longest_edge": 160 * 160}
    processor.save_pretrained(path)
    return path


def there(clips: Clips) -> dict[str, set[str]]:
    """media_id → the nodes that hold the clip."""
    found = get_object_locations(list(clips.values()))
    return {media_id: set(found[ref]["node_ids"]) for media_id, ref in clips.items()}


def test_a_node_receives_the_clips_of_its_rows(nodes: list[str], tmp_path: Path) -> None:
    config = DataConfig(path=str(rows_of(tmp_path)), max_prompt_tokens=512)
    model, records = str(large_pictures(tmp_path / "model")), read_records(config, PROMPT, tmp_path)
    encoder = on(0, PromptEncoder, model, config, records, tmp_path, 0)
    server = PromptServer.check(ActorGroup(("encoder-0",), (encoder,)), ANSWER_S, START_S)
    generators, budget = Generators(group("generator", [1, 2]), ANSWER_S), PassBudget(4096)
    references = References(group("reference", [1]), budget, ANSWER_S)
    policy = Learners(group("policy", [2, 3]), budget, ANSWER_S)
    prompts = server.take(range(PROMPTS))
    needed = Needed(nodes, prompts)

    asked = [generators.ask(prompt, 2, engine=number % 2) for number, prompt in enumerate(one_by_one(prompts))]
    rollouts = concat_rollouts([generators.answer(one) for one in asked])
    for one in asked:
        needed.media[1 + one.engine] |= one.prompts.media.keys()

    references.ask(rollouts).result()
    needed.features[1] |= prompts.features.keys()
    policy.infer(rollouts).result()
    for rank, shard in enumerate(divide(rollouts, 2, budget)):
        needed.features[2 + rank] |= needed.of(rollouts, shard)
    assert needed.features[2] != needed.features[3]
    needed.check()

    steps = mini_batches(rollouts.table.column("group_id").to_pylist(), 2, 1, np.random.default_rng(0))
    shards = plan_shards(rollouts.lengths, rollouts.kinds, steps, 2, budget, rollouts.shared())
    policy.finish_update(policy.update(rollouts.ref, rollouts, shards, [1.0, 1.0], 0.0), shards)
    for rank, shard in enumerate(shards):
        needed.features[2 + rank] |= needed.of(rollouts, shard)
    needed.check()


class Needed:
    """What each node needs: all where it is encoded, and elsewhere what its rows show."""

    def __init__(self, nodes: list[str], prompts: Prompts):
        self._nodes, self._prompts = nodes, prompts
        self.media, self.features = ([set(clips), set(), set(), set()] for clips in (prompts.media, prompts.features))

    @staticmethod
    def of(rollouts: Rollouts, shard: Shard) -> set[str]:
        return set(shown(rollouts.table.take(list(shard.rows))))

    def check(self) -> None:
        """Each node holds what it needs, once, and no more than a tenth beside the clips' own bytes."""
        for clips, needed in ((self._prompts.media, self.media), (self._prompts.features, self.features)):
            held, sizes = there(clips), get_object_locations(list(clips.values()))
            for node, names in zip(self._nodes, needed, strict=True):
                assert {name for name, places in held.items() if node in places} == names
                stored = sum(sizes[clips[name]]["object_size"] for name in names)
                own = sum(len(data) for name in names for data in ray.get(clips[name]).column("data").to_pylist())
                assert stored <= 1.1 * own
