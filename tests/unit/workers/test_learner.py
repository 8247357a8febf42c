"""A learner's update and answers are the same whether responses share their prompt or not, or are packed."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from mmrlhf_ray.config import LearnerConfig, ModelConfig
from mmrlhf_ray.config.algorithm import AlgorithmConfig
from mmrlhf_ray.config.learner import EngineConfig, OptimizerConfig
from mmrlhf_ray.config.parts import LoRAConfig
from mmrlhf_ray.data.batches.batching import PassBudget, Shard, SharedPrompts, media_kinds, plan_shards
from mmrlhf_ray.data.encoding.encode import Encoder
from mmrlhf_ray.data.encoding.features import features_table
from mmrlhf_ray.schema import EXPERIENCE
from mmrlhf_ray.training.build import build_trained
from mmrlhf_ray.training.objectives import CriticObjective, Objective, PolicyObjective
from mmrlhf_ray.workers.roles.learner import Learner, LearnerSpec
from tests.unit.tiny import mixed_media, mixed_rows, rollout_table

GROUPS = [0, 0, 0, 1, 2, 2, 2, 2, 3, 4, 4]
ALGORITHM = AlgorithmConfig(kl_in="loss", kl_estimator="k3", kl_coef=0.1, entropy_coef=0.01)


@pytest.mark.parametrize("objective", [PolicyObjective(ALGORITHM, 0.7), CriticObjective(ALGORITHM)])
def test_layouts_change_no_number(process_group: None, omni: Path, omni_encoder: Encoder, objective: Objective) -> None:
    prompts, features = mixed_rows(omni_encoder)
    rng = np.random.default_rng(0)
    rows = [type(prompts[g])(prompts[g].context, prompts[g].response * (1 + i % 3), prompts[g].media_ids)
            for i, g in enumerate(GROUPS)]  # fmt: skip
    modality = ["+".join(sorted({m.kind for m in mixed_media(omni_encoder)[g]})) or "text" for g in GROUPS]
    table = rollout_table(rows, modality=modality, group_id=GROUPS)
    numbers = [rng.normal(-1.0, 0.3, len(row.response)).astype(np.float32).tolist() for row in rows]
    for name in EXPERIENCE.names[len(table.schema.names) :]:
        column = [1.0] * len(rows) if name == "score" else numbers
        table = table.append_column(EXPERIENCE.field(name), pa.array(column, EXPERIENCE.field(name).type))
    lengths, kinds = list(map(len, rows)), [media_kinds(m) for m in modality]
    common = SharedPrompts(GROUPS, [len(row.context) for row in rows])
    order = rng.permutation(len(rows)).tolist()

    def learned(*, shared: bool, packed: bool = False) -> tuple[list[np.ndarray], dict[str, float], list[np.ndarray]]:
        engine = EngineConfig(zero_stage=0, shared_prompt=shared)
        spec = LearnerSpec(
            ModelConfig(path=str(omni)), LearnerConfig(engine=engine, optimizer=OptimizerConfig(lr=0.1, eps=1.0)), 2,
            0, 1, "cpu",
        )  # fmt: skip
        learner = Learner(spec, objective)
        learner._trained = build_trained(
            objective, spec.model, spec.learner, optimizer_steps=2, seed=0, device=torch.device("cpu")
        )
        budget = PassBudget.of(engine, [omni_encoder.adapter], tokens=150, packed=packed)

        def planned(steps: list[list[int]]) -> Shard:
            (shard,) = plan_shards(lengths, kinds, steps, 1, budget, common)
            return shard

        def answers() -> list[np.ndarray]:
            shard = planned([list(range(len(rows)))])
            assert all(((m.lines is not None), m.packed) == (shared or packed, packed) for m in shard.steps[0])
            found = learner.infer(table.select(rollout_table(rows).schema.names), shard, features_table(features))[0]
            return [row for _, row in sorted(zip(shard.rows, found, strict=True), key=lambda pair: pair[0])]

        before = answers()
        updated = learner.update(
            table, planned([order[:6], order[6:]]), [20.0, 15.0], 0.1, False, None, features_table(features)
        )
        return before, updated.stats, answers()

    plain = learned(shared=False)
    assert float(np.abs(np.concatenate(plain[2]) - np.concatenate(plain[0])).max()) > 1e-3, "it learned something"
    for other in (learned(shared=True), learned(shared=False, packed=True)):
        for was, now in ((plain[0], other[0]), (plain[2], other[2])):
            np.testing.assert_allclose(np.concatenate(now), np.concatenate(was), atol=1e-5)
        assert other[1] == pytest.approx(plain[1], rel=1e-4, abs=1e-5)


def test_a_policy_of_which_more_than_an_adapter_learns_is_no_reference(omni: Path) -> None:
    lora = LoRAConfig(also_train=("projector",))
    spec = LearnerSpec(ModelConfig(path=str(omni)), LearnerConfig(lora=lora), 1, 0, 1, "cpu")
    with pytest.raises(ValueError, match="more than an adapter is trained"):
        Learner(spec, PolicyObjective(ALGORITHM, 0.7)).reference_logprobs(rollout_table([]), Shard((), ((),)))
