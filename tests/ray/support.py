"""Actors started one by one, without a driver around them."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import ray

from mmrlhf_ray.config import DataConfig
from mmrlhf_ray.data.records.readers import read_records
from mmrlhf_ray.runtime.actors import ActorGroup
from mmrlhf_ray.schema import PROMPT
from mmrlhf_ray.training.objectives import Objective
from mmrlhf_ray.workers.roles.encoder import PromptEncoder
from mmrlhf_ray.workers.roles.learner import Learner, LearnerSpec

START_S = 180.0
ANSWER_S = 120.0


def encoded_prompts(model_dir: Path, config: DataConfig, scratch: Path) -> tuple[pa.Table, pa.Table, pa.Table]:
    """All usable prompts as ENCODED_PROMPT, with their MEDIA and FEATURES."""
    encoder = PromptEncoder(str(model_dir), config, read_records(config, PROMPT, scratch), scratch, seed=0)
    prompts, media, features, _ = encoder.slice(0, encoder.check_prompts())
    return prompts, media, features


def start_learners(objective: Objective, **spec: Any) -> ActorGroup:
    """Ranks of one learner group that have met and loaded the model. `spec`: LearnerSpec's fields but the rank."""
    ranks = [LearnerSpec(rank=rank, device="cpu", **spec) for rank in range(spec["world_size"])]
    handles = [ray.remote(Learner).options(num_cpus=0).remote(s, objective) for s in ranks]
    group = ActorGroup(tuple(f"learner-{i}" for i in range(len(handles))), tuple(handles))
    first = ActorGroup(group.names[:1], group.handles[:1])
    address, port = first.wait(first.call("rendezvous"), START_S, "rendezvous")[0]
    group.wait(group.call("join", address, port), START_S, "joining")
    return group


def end(group: ActorGroup) -> None:
    """Kill the actors, so that their memory is free for the next test."""
    for handle in group.handles:
        ray.kill(handle)
