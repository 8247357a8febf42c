"""Two ranks train the parts that they are told to, each at its own rate, under ZeRO-1 and ZeRO-3."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from safetensors.torch import load_file
from torch import Tensor

from mmrlhf_ray.config import AlgorithmConfig, DataConfig, EngineConfig, LearnerConfig, ModelConfig, OptimizerConfig
from mmrlhf_ray.config.parts import PartConfig, PartsConfig
from mmrlhf_ray.data.batches.batching import PassBudget, media_kinds, plan_shards
from mmrlhf_ray.data.encoding.encode import load_encoder
from mmrlhf_ray.models import adapter_for
from mmrlhf_ray.models.headed import part_of
from mmrlhf_ray.schema import EXPERIENCE
from mmrlhf_ray.training.objectives import PolicyObjective
from tests.ray.support import encoded_prompts, end, start_learners

LR, TOWER_LR = 1e-3, 4e-3
PARTS = PartsConfig(
    vision_tower=PartConfig(lr=TOWER_LR), audio_tower=PartConfig(train=False), projector=PartConfig(train=False)
)
OPTIMIZER = OptimizerConfig(lr=LR, eps=1e-12, weight_decay=0.0, max_grad_norm=1e9)

pytestmark = pytest.mark.usefixtures("session")


@pytest.fixture(scope="module")
def experience(model_dir: Path, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[pa.Table, pa.Table]:
    """Responses to prompts of every modality, good and bad by lot, with their features."""
    prompts, _, features = encoded_prompts(
        model_dir, DataConfig(path=str(data_dir / "prompts_heldout")), tmp_path_factory.mktemp("scratch")
    )
    rng, encoder = np.random.default_rng(0), load_encoder(model_dir)
    allowed = [i for i in range(len(encoder.tokenizer)) if i not in encoder.banned_token_ids]
    rows = []
    for number, prompt in enumerate(prompts.to_pylist()):
        kept = ("group_id", "prompt_id", "task", "modality", "prompt_token_ids", "facts_token_ids", "media_ids")
        per_token = dict.fromkeys(("rewards", "ref_logprobs", "values", "returns"), [0.0] * 4)
        rows.append(
            {name: prompt[name] for name in kept}
            | per_token
            | {
                "sample_id": str(number),
                "policy_version": 0,
                "versions": [],
                "segments": [],
                "teacher_distributions": [],
                "response_token_ids": rng.choice(allowed, 4).tolist(),
                "response_mask": [True] * 4,
                "finish_reason": "length",
                "score": 0.0,
                "advantages": [float(rng.normal())] * 4,
                "old_logprobs": [-4.0] * 4,
                "rollout_logprobs": [-4.0] * 4,
            }
        )
    return pa.Table.from_pylist(rows, schema=EXPERIENCE), features


@pytest.mark.parametrize("stage", [1, 3])
def test_trained_parts_move_at_their_rate_and_the_others_stay(
    stage: int, model_dir: Path, experience: tuple[pa.Table, pa.Table], tmp_path: Path
) -> None:
    table, features = experience
    ranks = start_learners(
        PolicyObjective(AlgorithmConfig(), 1.0),
        model=ModelConfig(path=str(model_dir)),
        learner=LearnerConfig(engine=EngineConfig(zero_stage=stage), optimizer=OPTIMIZER, parts=PARTS),
        optimizer_steps=1,
        world_size=2,
    )
    lengths = [len(p) + 4 for p in table.column("prompt_token_ids").to_pylist()]
    kinds = [media_kinds(m) for m in table.column("modality").to_pylist()]
    shards = plan_shards(lengths, kinds, [list(range(len(table)))], 2, PassBudget(4096))
    refs = [
        handle.update.remote(table, shard, [4.0 * len(table)], 0.0, False, None, features)
        for handle, shard in zip(ranks.group.handles, shards, strict=True)
    ]
    stats = ranks.finish_update(refs, shards).stats
    ranks.export(tmp_path / "model")
    ranks.finish_save(ranks.start_save(tmp_path / "state"))
    end(ranks.group)

    assert (stats["lr"], stats["lr_vision_tower"]) == pytest.approx((LR, TOWER_LR))
    start, got = (load_file(d / "model.safetensors") for d in (model_dir, tmp_path / "model"))
    moved = {part: _largest_move(model_dir, start, got, part) for part in adapter_for(model_dir).parts}
    assert moved["audio_tower"] == moved["projector"] == 0.0
    # AdamW's first step is the rate itself in every parameter that has a gradient.
    assert moved["language_model"] == pytest.approx(LR, rel=1e-3)
    assert moved["vision_tower"] == pytest.approx(TOWER_LR, rel=1e-3)


def _largest_move(model_dir: Path, start: dict[str, Tensor], got: dict[str, Tensor], part: str) -> float:
    adapter = adapter_for(model_dir)
    assert start.keys() == got.keys()
    names = [n for n in start if part_of(adapter, "backbone." + n.removeprefix("thinker."), scalar=False) == part]
    return max(float((got[name] - start[name]).abs().max()) for name in names)
