"""Weights from a ZeRO-3 group straight into the engines' workers: one generator, then two, then another
one in the place of one whose engine has died. What a push brings, refuses and leaves: test_weight_sync.py, and
tests/unit/weights."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest
from ray.actor import ActorProxy

from mmrlhf_ray.config import AlgorithmConfig, DataConfig, EngineConfig, LearnerConfig, ModelConfig, SamplingConfig
from mmrlhf_ray.config.weights import WeightTransport
from mmrlhf_ray.errors import RoleFailed
from mmrlhf_ray.rollout.batch import Prompts
from mmrlhf_ray.runtime.actors import ActorGroup
from mmrlhf_ray.runtime.session import SessionInfo
from mmrlhf_ray.runtime.waits import deadline_get
from mmrlhf_ray.training.objectives import PolicyObjective
from mmrlhf_ray.workers.roles.generator import Generator, Generators
from mmrlhf_ray.workers.roles.learner import Learners
from tests.family import engine_of
from tests.ray.support import ANSWER_S, encoded_prompts, end, start_generators, start_learners, stored

TOLERANCE = 1e-4
TEMPERATURE = 0.7
BUCKET_BYTES = 1 << 20  # the model has about 5 MB, so there are several buckets
SAMPLING = SamplingConfig(temperature=TEMPERATURE, max_response_tokens=6)


@dataclass
class Stage:
    policy: Learners
    handles: list[ActorProxy[Generator]]
    model: ModelConfig
    prompts: Prompts
    transport: WeightTransport

    def generators(self, numbers: Sequence[int]) -> Generators:
        names = tuple(f"generator-{number}" for number in numbers)
        return Generators(ActorGroup(names, tuple(self.handles[number] for number in numbers)), ANSWER_S)

    def learn(self, seed: int) -> None:
        refs = [rank.perturb.remote("", 0.05, seed) for rank in self.policy.group.handles]
        self.policy.group.wait(refs, ANSWER_S, "perturb")

    def push(self, version: int, *numbers: int) -> None:
        """Which also compares names and checksums."""
        assert self.policy.push(self.generators(numbers), version, BUCKET_BYTES) > 4 * BUCKET_BYTES

    def mismatch(self, *numbers: int) -> float:
        rollouts = self.generators(numbers).generate(self.prompts, 1)
        learned, _ = self.policy.infer(rollouts).result()
        sampled = rollouts.table.column("rollout_logprobs").to_pylist()
        return max(float(np.abs(np.subtract(a, b)).max()) for a, b in zip(learned, sampled, strict=True))

    def groups(self) -> list[str]:
        return [deadline_get(handle.weights_group.remote(), ANSWER_S, "group")[0] for handle in self.handles]

    def start_generator(self) -> None:
        self.handles += start_generators(SAMPLING, self.model, Generator, transport=self.transport).group.handles

    def process(self, number: int) -> psutil.Process:
        asked = self.handles[number].__ray_call__.remote(lambda self: os.getpid())
        return psutil.Process(deadline_get(asked, ANSWER_S, "pid"))


@pytest.fixture(params=["gloo", "ipc"])
def stage(
    request: pytest.FixtureRequest, session: SessionInfo, model_dir: Path, data_dir: Path, tmp_path: Path
) -> Iterator[Stage]:
    transport: WeightTransport = request.param
    model = ModelConfig(path=str(model_dir))
    policy = start_learners(
        PolicyObjective(AlgorithmConfig(), TEMPERATURE),
        model=model,
        learner=LearnerConfig(engine=EngineConfig(zero_stage=3)),
        optimizer_steps=1,
        world_size=2,
        transport=transport,
    )
    prompts = stored(*encoded_prompts(model_dir, DataConfig(path=str(data_dir / "prompts_heldout")), tmp_path))
    started = Stage(policy, [], model, prompts, transport)
    started.start_generator()
    yield started
    end(started.generators(range(len(started.handles))).group)
    end(policy.group)


def test_groups_follow_the_generators_that_serve(stage: Stage) -> None:
    stage.learn(1)
    assert stage.mismatch(0) > 100 * TOLERANCE
    stage.push(1, 0)
    assert stage.mismatch(0) <= TOLERANCE
    (alone,) = stage.groups()

    stage.start_generator()
    stage.learn(2)
    stage.push(2, 0, 1)
    assert stage.mismatch(0, 1) <= TOLERANCE
    first, second = stage.groups()
    assert first == second != alone

    stage.learn(3)
    stage.push(3, 0, 1)
    assert stage.groups() == [first, first]  # it was good enough
    assert stage.mismatch(0, 1) <= TOLERANCE

    stays = stage.process(0).pid, engine_of(stage.process(0)).pid
    engine_of(stage.process(1)).kill()
    with pytest.raises(RoleFailed, match="generator-1"):
        stage.push(4, 0, 1)
    end(stage.generators([1]).group)
    del stage.handles[1]
    stage.start_generator()
    stage.learn(4)
    stage.push(4, 0, 1)
    assert stage.mismatch(0, 1) <= TOLERANCE
    assert (stage.process(0).pid, engine_of(stage.process(0)).pid) == stays
