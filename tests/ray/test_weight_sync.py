"""Weights from a ZeRO-3 group to two vLLM generators: what arrives, what it changes, and what is refused."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from ray.actor import ActorProxy
from safetensors.torch import load_file

from mmrlhf_ray.config import (
    AlgorithmConfig,
    DataConfig,
    EngineConfig,
    LearnerConfig,
    ModelConfig,
    SamplingConfig,
)
from mmrlhf_ray.errors import RoleFailed, RunError
from mmrlhf_ray.rollout.batch import Prompts, Rollouts
from mmrlhf_ray.runtime.actors import ActorGroup
from mmrlhf_ray.runtime.session import SessionInfo
from mmrlhf_ray.runtime.waits import deadline_get
from mmrlhf_ray.training.objectives import PolicyObjective
from mmrlhf_ray.weights.buckets import pack
from mmrlhf_ray.weights.layout import TensorLayout
from mmrlhf_ray.workers.roles.generator import Generator, Generators
from mmrlhf_ray.workers.roles.learner import Learners
from tests.family import engine_of
from tests.ray.support import ANSWER_S, encoded_prompts, end, start_generators, start_learners, stored

TOLERANCE = 1e-4
TEMPERATURE = 0.7
BUCKET_BYTES = 1 << 20  # the model has about 5 MB, so there are several buckets
SEES, HEARS = {"image", "image+audio", "video"}, {"audio", "image+audio"}
EVERYTHING = SEES | HEARS | {"text"}


class DamagedLine(Generator):
    """A generator that can be told to flip one bit of the next bucket."""

    _damage = False

    def damage_next_bucket(self) -> None:
        self._damage = True

    async def receive_bucket(self, layout: list[TensorLayout], payload: np.ndarray) -> None:
        if self._damage:
            payload, self._damage = payload.copy(), False
            payload[0] ^= 1
        await super().receive_bucket(layout, payload)


@dataclass(frozen=True)
class Stage:
    """The roles of this test, and the prompts that all of it uses."""

    policy: Learners
    generators: Generators
    prompts: Prompts

    def push(self, policy_version: int) -> int:
        return self.policy.push(self.generators, policy_version, BUCKET_BYTES)

    def perturb(self, prefix: str, scale: float, seed: int) -> int:
        """How many parameters of the policy got noise."""
        group = self.policy.group
        refs = [handle.perturb.remote(prefix, scale, seed) for handle in group.handles]
        return group.wait(refs, ANSWER_S, "perturb")[0]


@pytest.fixture(scope="module")
def stage(
    session: SessionInfo, model_dir: Path, data_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    table, media, features = encoded_prompts(
        model_dir, DataConfig(path=str(data_dir / "prompts_heldout")), tmp_path_factory.mktemp("scratch")
    )
    assert set(table.column("modality").to_pylist()) == EVERYTHING
    model = ModelConfig(path=str(model_dir))
    sampling = SamplingConfig(temperature=TEMPERATURE, max_response_tokens=6)
    generators = start_generators(sampling, model, Generator, DamagedLine)
    policy = start_learners(
        PolicyObjective(AlgorithmConfig(), TEMPERATURE),
        model=model,
        learner=LearnerConfig(engine=EngineConfig(zero_stage=3)),
        optimizer_steps=1,
        world_size=2,
    )
    prompts = stored(table, media, features)
    yield Stage(policy, generators, prompts)
    end(generators.group)
    end(policy.group)


def _mismatch(stage: Stage, rollouts: Rollouts) -> float:
    learned, _ = stage.policy.infer(rollouts).result()
    sampled = rollouts.table.column("rollout_logprobs").to_pylist()
    return max(float(np.abs(np.subtract(a, b)).max()) for a, b in zip(learned, sampled, strict=True))


def _response(stage: Stage) -> dict[str, tuple[list[int], list[float]]]:
    """prompt_id → tokens and logprobs of its response; seeds hang on the group, so the same weights give the same."""
    table = stage.generators.generate(stage.prompts, 1).table
    columns = [table.column(c).to_pylist() for c in ("prompt_id", "response_token_ids", "rollout_logprobs")]
    return {prompt: (ids, logprobs) for prompt, ids, logprobs in zip(*columns, strict=True)}


def _changed(stage: Stage, before: dict, after: dict) -> set[str]:
    """Modalities of which some prompt is answered differently."""
    modality = dict(zip(*(stage.prompts.table.column(c).to_pylist() for c in ("prompt_id", "modality")), strict=True))
    same = {p: before[p][0] == after[p][0] and np.allclose(before[p][1], after[p][1], atol=1e-5) for p in before}
    return {modality[p] for p, equal in same.items() if not equal}


def test_what_is_pushed_is_what_the_learner_has_and_what_the_generators_use(stage: Stage) -> None:
    rollouts = stage.generators.generate(stage.prompts, 2)
    assert set(rollouts.table.column("policy_version").to_pylist()) == {0}
    assert _mismatch(stage, rollouts) <= TOLERANCE

    stage.perturb("", 0.05, 7)
    assert _mismatch(stage, rollouts) > 100 * TOLERANCE  # the learner is ahead, and the comparison sees it

    stage.generators.start_weight_update()
    ranks, receivers = stage.policy.group, stage.generators.group.handles
    refs = [rank.push_weights.remote(receivers, BUCKET_BYTES, ANSWER_S) for rank in ranks.handles]
    sent, nothing = ranks.wait(refs, ANSWER_S, "push")
    pushed = stage.generators.finish_weight_update(1)
    assert [(p.checksum, p.names) for p in pushed] == [(sent.checksum, sent.names)] * 2
    assert sent.nbytes > 4 * BUCKET_BYTES
    assert nothing.nbytes == 0

    rollouts = stage.generators.generate(stage.prompts, 2)
    assert set(rollouts.table.column("policy_version").to_pylist()) == {1}
    assert _mismatch(stage, rollouts) <= TOLERANCE


@pytest.mark.parametrize(
    ("prefix", "affected"),
    [("backbone.visual.", SEES), ("backbone.audio_tower.", HEARS), ("backbone.model.", EVERYTHING)],
)
def test_each_part_of_the_model_arrives_and_changes_what_needs_it(stage: Stage, prefix: str, affected: set) -> None:
    before = _response(stage)
    again = _response(stage)
    assert _changed(stage, before, again) == set()
    assert stage.perturb(prefix, 0.1, 1) > 10
    stage.push(policy_version=2)
    assert _changed(stage, before, _response(stage)) == affected
    assert _mismatch(stage, stage.generators.generate(stage.prompts, 1)) <= TOLERANCE


def test_bytes_that_changed_on_the_way_are_noticed(stage: Stage) -> None:
    deadline_get(stage.generators.group.handles[1].damage_next_bucket.remote(), ANSWER_S, "damage")
    with pytest.raises(RunError, match=r"generator-1 holds checksum \w+, the learner sent"):
        stage.push(policy_version=3)
    stage.push(policy_version=3)


def test_nothing_is_left_of_a_push_that_was_broken_off(stage: Stage, model_dir: Path) -> None:
    """By the death of a learner or of another generator; half of a layer had arrived."""
    stage.perturb("", 0.05, 3)
    stage.generators.start_weight_update()
    half = "thinker.model.layers.0.mlp.gate_proj.weight"
    layout, payload = pack([(half, load_file(model_dir / "model.safetensors")[half] + 9.0)])
    received = [handle.receive_bucket.remote(layout, payload) for handle in stage.generators.group.handles]
    deadline_get(received, ANSWER_S, "bucket")
    stage.push(policy_version=4)
    assert _mismatch(stage, stage.generators.generate(stage.prompts, 1)) <= TOLERANCE


def test_a_name_the_sampler_does_not_have_is_refused_by_name(stage: Stage) -> None:
    generator = stage.generators.group.handles[0]
    deadline_get(generator.start_weight_update.remote("finish"), ANSWER_S, "start")
    layout, payload = pack([("thinker.model.layers.9.mlp.up_proj.weight", torch.zeros(4, 4))])
    with pytest.raises(RunError, match=r"no place for 'thinker\.model\.layers\.9\.mlp\.up_proj\.weight' \[4, 4\]; use"):
        deadline_get(generator.receive_bucket.remote(layout, payload), ANSWER_S, "bucket")


def test_a_push_that_leaves_something_out_is_refused_by_name(stage: Stage) -> None:
    generator = stage.generators.group.handles[1]
    deadline_get(generator.start_weight_update.remote("finish"), ANSWER_S, "start")
    with pytest.raises(RunError, match=r"the learner sent nothing for \d+ of the sampler's parameters: audio_tower\."):
        deadline_get(generator.finish_weight_update.remote(9), ANSWER_S, "finish")


def _process(generator: ActorProxy[Generator]) -> psutil.Process:
    return psutil.Process(deadline_get(generator.__ray_call__.remote(lambda self: os.getpid()), ANSWER_S, "pid"))


def test_an_engine_that_dies_fails_its_requests_at_once_and_by_name(stage: Stage) -> None:
    """The push of a test above was refused, so that this engine holds its requests back."""
    alone = Generators(ActorGroup(("generator-0",), stage.generators.group.handles[:1]), ANSWER_S)
    asked = alone.ask(stage.prompts, 4)
    assert alone.routing.load[0] > 0
    engine_of(_process(alone.group.handles[0])).kill()
    with pytest.raises(RoleFailed, match="generating responses: generator-0: .*engine process died"):
        alone.answer(asked)
    assert alone.routing.load == (0.0,)
    with pytest.raises(RoleFailed, match="starting the generators: generator-0: .*engine process died"):
        alone.wait_ready(ANSWER_S)


def test_sampler_and_engine_end_with_their_generator_however_that_ends(stage: Stage) -> None:
    generator = _process(stage.generators.group.handles[1])
    engine = engine_of(generator)
    others = [engine, psutil.Process(engine.ppid()), *generator.children(recursive=True)]
    generator.kill()
    _, alive = psutil.wait_procs(others, timeout=ANSWER_S)
    assert not alive
