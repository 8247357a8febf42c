"""Two ranks under every ZeRO stage learn what one plain torch process learns, whatever media each rank has."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import Qwen2_5OmniThinkerForConditionalGeneration

from mmrlhf_ray.config import AlgorithmConfig, DataConfig, EngineConfig, LearnerConfig, ModelConfig, OptimizerConfig
from mmrlhf_ray.data.batches.batching import MicroBatch, Shard, align_passes, media_kinds, present_kinds
from mmrlhf_ray.data.encoding.encode import load_encoder
from mmrlhf_ray.data.encoding.features import read_features
from mmrlhf_ray.schema import EXPERIENCE
from mmrlhf_ray.training.objectives import PolicyObjective
from tests.ray.support import ANSWER_S, encoded_prompts, end, start_learners

TOLERANCE = 1e-5
TEMPERATURE = 0.7
CLIP_RANGE = 0.2
# With an eps below the gradients' rounding errors, AdamW makes full steps of these where the gradient is nothing else.
OPTIMIZER = OptimizerConfig(lr=1e-3, eps=1e-5, weight_decay=0.01, max_grad_norm=3.0)
# Of every optimizer step, the rows of each pass of each rank: in the first two one pass, then several, of which the
# ranks have different numbers, so that one of them runs a pass without a row of its own.
STEPS = (
    (((0, 1, 2),), ((5, 6, 7, 8),)),
    (((2, 3, 4),), ((7, 8, 9),)),
    (((0, 1), (2,)), ((5,), (6, 7), (8, 9))),
    (((3,), (4,), (0, 2)), ((9, 5),)),
)
TEXT_ROWS, IMAGE_ROWS = range(5), range(5, 10)

pytestmark = pytest.mark.usefixtures("session")


@dataclass(frozen=True)
class Scene:
    """Experience whose first rows are text only and whose others show pictures, and what one process makes of it."""

    model_dir: Path
    experience: pa.Table
    features: pa.Table
    start: dict[str, Tensor]
    expected: dict[str, Tensor]
    grad_norms: list[float]
    """Of each optimizer step, before clipping."""


@pytest.fixture(scope="module")
def scene(model_dir: Path, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    model = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(str(model_dir), dtype=torch.float32).eval()
    prompts, _, features = encoded_prompts(
        model_dir, DataConfig(path=str(data_dir / "prompts_train")), tmp_path_factory.mktemp("scratch")
    )
    experience = _experience(model, model_dir, prompts, features)
    start = {f"thinker.{n}": p.detach().clone() for n, p in model.named_parameters()}
    norms = _one_process(model, model_dir, experience, features)
    assert min(norms) < OPTIMIZER.max_grad_norm < max(norms)  # some steps are clipped, some are not
    expected = {f"thinker.{n}": p.detach() for n, p in model.named_parameters()}
    return Scene(model_dir, experience, features, start, expected, norms)


def _experience(model: torch.nn.Module, model_dir: Path, prompts: pa.Table, features: pa.Table) -> pa.Table:
    rng = np.random.default_rng(0)
    encoder = load_encoder(model_dir)
    allowed = [i for i in range(len(encoder.tokenizer)) if i not in encoder.banned_token_ids]
    by_kind = {kind: [p for p in prompts.to_pylist() if p["modality"] == kind] for kind in ("text", "image")}
    rows = []
    for number in (*TEXT_ROWS, *IMAGE_ROWS):
        of_kind = by_kind["text" if number in TEXT_ROWS else "image"]
        prompt = of_kind[number % len(of_kind)]
        length = int(rng.integers(3, 9))
        kept = ("group_id", "prompt_id", "task", "modality", "prompt_token_ids", "facts_token_ids", "media_ids")
        row = {name: prompt[name] for name in kept}
        row |= {
            "sample_id": str(number),
            "policy_version": 0,
            "versions": [],
            "segments": [],
            "teacher_distributions": [],
            "response_token_ids": rng.choice(allowed, length).tolist(),
            "response_mask": (rng.random(length) < 0.8).tolist(),
            "finish_reason": "stop",
            "score": 0.0,
            "advantages": rng.normal(size=length).tolist(),
            **{name: [0.0] * length for name in ("rewards", "ref_logprobs", "values", "returns", "rollout_logprobs")},
        }
        with torch.no_grad():
            logprobs = _logprobs(model, row, read_features(features), encoder.banned_token_ids).numpy()
        # Some ratios start outside the clip range.
        rows.append(row | {"old_logprobs": (logprobs + rng.normal(0, 0.2, length)).tolist()})
    return pa.Table.from_pylist(rows, schema=EXPERIENCE)


def _logprobs(model: torch.nn.Module, row: dict, features: dict, banned: Sequence[int]) -> Tensor:
    ids = torch.tensor([row["prompt_token_ids"] + row["response_token_ids"]])
    media = [features[m] for m in row["media_ids"]]
    pictures = {
        key: torch.cat([torch.from_numpy(m[key].copy()) for m in media])
        for key in ("pixel_values", "image_grid_thw")
        if media
    }
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), **pictures).logits[0]
    logits = logits[len(row["prompt_token_ids"]) - 1 : -1] / TEMPERATURE
    logits[:, list(banned)] = -torch.inf
    return logits.log_softmax(-1).gather(1, torch.tensor(row["response_token_ids"])[:, None])[:, 0]


def _one_process(model: torch.nn.Module, model_dir: Path, experience: pa.Table, features: pa.Table) -> list[float]:
    """PPO's clipped loss by hand, row by row; one AdamW over all parameters. Returns the gradients' norms."""
    rows, arrays, banned = experience.to_pylist(), read_features(features), load_encoder(model_dir).banned_token_ids
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=OPTIMIZER.lr,
        betas=OPTIMIZER.betas,
        eps=OPTIMIZER.eps,
        weight_decay=OPTIMIZER.weight_decay,
    )
    norms = []
    for ranks in STEPS:
        numbers = [row for passes in ranks for rows_of_pass in passes for row in rows_of_pass]
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        tokens = sum(sum(rows[n]["response_mask"]) for n in numbers)
        for n in numbers:
            ratio = (_logprobs(model, rows[n], arrays, banned) - torch.tensor(rows[n]["old_logprobs"])).exp()
            advantages = torch.tensor(rows[n]["advantages"])
            gain = torch.minimum(advantages * ratio, advantages * ratio.clamp(1 - CLIP_RANGE, 1 + CLIP_RANGE))
            (-(gain * torch.tensor(rows[n]["response_mask"])).sum() / tokens).backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), OPTIMIZER.max_grad_norm)))
        optimizer.step()
    return norms


def _shards(experience: pa.Table) -> list[Shard]:
    kinds = [media_kinds(m) for m in experience.column("modality").to_pylist()]
    own: list[list[int]] = [[], []]
    plans: list[list[tuple[MicroBatch, ...]]] = [[], []]
    for ranks in STEPS:
        present = [[present_kinds(rows, kinds) for rows in passes] for passes in ranks]
        for rank, passes in enumerate(ranks):
            start = len(own[rank])
            own[rank] += [row for rows in passes for row in rows]
            numbers = iter(range(start, len(own[rank])))
            local = [MicroBatch(tuple(next(numbers) for _ in rows)) for rows in passes]
            plans[rank].append(tuple(align_passes(local, present, rank)))
    return [Shard(tuple(rows), tuple(plan)) for rows, plan in zip(own, plans, strict=True)]


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_two_ranks_learn_what_one_process_learns(stage: int, scene: Scene, tmp_path: Path) -> None:
    masks = scene.experience.column("response_mask").to_pylist()
    shards = _shards(scene.experience)
    passes = [[p for step in shard.steps for p in step] for shard in shards]
    assert {p.dummies for p in passes[0]} == {("image",), ()}  # a tower in step with the other rank's, or none at all
    assert all(any(not p.rows for p in of_rank) for of_rank in passes)
    ranks = start_learners(
        PolicyObjective(AlgorithmConfig(clip_range=CLIP_RANGE), TEMPERATURE),
        model=ModelConfig(path=str(scene.model_dir)),
        learner=LearnerConfig(engine=EngineConfig(zero_stage=stage), optimizer=OPTIMIZER),
        optimizer_steps=len(STEPS),
        world_size=2,
    )
    denominators = [sum(sum(masks[n]) for of_rank in step for rows in of_rank for n in rows) for step in STEPS]
    refs = [
        handle.update.remote(scene.experience, shard, denominators, 0.0, False, None, scene.features)
        for handle, shard in zip(ranks.group.handles, shards, strict=True)
    ]
    stats, of_other_rank = (updated.stats for updated in ranks.group.wait(refs, ANSWER_S, "update"))
    ranks.export(tmp_path / "model")
    end(ranks.group)

    got = load_file(tmp_path / "model" / "model.safetensors")
    assert got.keys() == scene.expected.keys()
    off = {name: float((got[name] - scene.expected[name]).abs().max()) for name in got}
    worst = max(off, key=off.__getitem__)
    assert off[worst] <= TOLERANCE, worst
    moved = {prefix: _moved(scene, prefix) for prefix in ("thinker.visual.", "thinker.model.", "thinker.lm_head.")}
    assert min(moved.values()) > 100 * TOLERANCE, moved
    assert stats == of_other_rank
    # AdamW forgives a wrong factor on all gradients; the norm does not.
    assert stats["grad_norm"] == pytest.approx(np.mean(scene.grad_norms), rel=1e-4)
    assert stats["tokens"] == sum(denominators)
    assert stats["clip_fraction"] > 0


def _moved(scene: Scene, prefix: str) -> float:
    changes = [(scene.expected[n] - scene.start[n]).abs().max() for n in scene.start if n.startswith(prefix)]
    return float(max(changes))
