"""Actors started one by one, without a driver around them."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray

from mmrlhf_ray.config import DataConfig, GeneratorConfig, LoRAConfig, ModelConfig, SamplingConfig
from mmrlhf_ray.config.weights import WeightTransport
from mmrlhf_ray.data.batches.batching import PassBudget
from mmrlhf_ray.data.records.readers import read_records
from mmrlhf_ray.rollout.batch import Clips, Prompts, TakeStats
from mmrlhf_ray.runtime.actors import ActorGroup, with_watch_lane
from mmrlhf_ray.schema import PROMPT
from mmrlhf_ray.training.objectives import Objective
from mmrlhf_ray.workers.roles.encoder import PromptEncoder
from mmrlhf_ray.workers.roles.generator import Generators
from mmrlhf_ray.workers.roles.learner import Learner, Learners, LearnerSpec
from tests.prompts import check_prompts, served

START_S = 400.0
ANSWER_S = 300.0


def encoded_prompts(model_dir: Path, config: DataConfig, scratch: Path) -> tuple[pa.Table, pa.Table, pa.Table]:
    """All usable prompts as ENCODED_PROMPT, with their MEDIA and FEATURES."""
    encoder = PromptEncoder(str(model_dir), config, read_records(config, PROMPT, scratch), scratch, seed=0)
    prompts, media, features, _, _ = served(encoder.slice(0, check_prompts(encoder)))
    return prompts, media, features


def stored(prompts: pa.Table, media: pa.Table, features: pa.Table) -> Prompts:
    """As encoders serve them: each clip an object of its own."""
    return Prompts(prompts, _each(media), _each(features), TakeStats(0.0, 0, 0))


def _each(clips: pa.Table) -> Clips:
    return {
        media_id: ray.put(clips.filter(pc.equal(clips.column("media_id"), media_id)))
        for media_id in clips.column("media_id").unique().to_pylist()
    }


def start_learners(objective: Objective, **spec: Any) -> Learners:
    """Ranks of one learner group that have met and loaded the model. `spec`: LearnerSpec's fields but the rank."""
    ranks = [LearnerSpec(rank=rank, device="cpu", **spec) for rank in range(spec["world_size"])]
    handles = tuple(with_watch_lane(Learner).options(num_cpus=0).remote(s, objective) for s in ranks)
    names = tuple(f"learner-{i}" for i in range(len(handles)))
    learners = Learners(ActorGroup(names, handles), PassBudget(4096), ANSWER_S)
    learners.wait_joined(learners.join(START_S), START_S)
    return learners


def start_generators(
    sampling: SamplingConfig,
    model: ModelConfig,
    *kinds: type,
    lora: LoRAConfig | None = None,
    transport: WeightTransport = "object_store",
) -> Generators:
    """A generator of each of `kinds`, that has sampled a token."""
    arguments = (
        model,
        GeneratorConfig(max_num_seqs=16),
        sampling,
        DataConfig(path="none", max_prompt_tokens=64),
        0,
        lora,
    )
    handles = tuple(ray.remote(kind).options(num_cpus=0).remote(*arguments, transport=transport) for kind in kinds)
    names = tuple(f"generator-{i}" for i in range(len(handles)))
    generators = Generators(ActorGroup(names, handles), ANSWER_S)
    generators.wait_ready(START_S)
    return generators


def end(group: ActorGroup) -> None:
    """Kill the actors, so that their memory is free for the next test."""
    handles: tuple[Any, ...] = group.handles
    for handle in handles:
        ray.kill(handle)
