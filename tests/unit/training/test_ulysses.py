"""Two ranks that share each line compute what one does, for every family and modality."""

import json
import re
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from mmrlhf_ray.config import EngineConfig, LearnerConfig, OptimizerConfig, SFTConfig
from mmrlhf_ray.data.batches.batching import MicroBatch, PassBudget, Shard, SharedPrompts, one_pass_plan
from mmrlhf_ray.data.batches.collate import Batch, TokenRow, collate
from mmrlhf_ray.data.batches.lines import collate_lines
from mmrlhf_ray.data.encoding.encode import load_encoder
from mmrlhf_ray.demo.families import FAMILIES
from mmrlhf_ray.models import HeadedModel, Reading, adapter_for, load_policy
from mmrlhf_ray.planning.sequence import why_not_spread
from mmrlhf_ray.runtime.actors import ActorGroup
from mmrlhf_ray.training.logprobs import ResponseLogprobs
from mmrlhf_ray.training.supervised import SupervisedWorker, WorkerPlan
from mmrlhf_ray.training.tasks import SFTTask
from mmrlhf_ray.training.ulysses import sequence_group, spread_over
from mmrlhf_ray.workers.roles.learner import Learners
from tests.unit.data.batches.test_lines import groups
from tests.unit.data.batches.test_packed import KERNEL, by_rows
from tests.unit.models.test_clips import Passed, alike, kinds
from tests.unit.tiny_families import build_llava
from tests.unit.training.rank_process import run_ranks
from tests.unit.training.rows import NUMBERS, media_rows

TILE = 8


def passed(model: HeadedModel, batch: Batch, read: ResponseLogprobs, *, summed: bool) -> Passed:
    """Log-probabilities of the response tokens, and the gradients of their sum weighed by place; `summed`: over the
    ranks."""
    model.zero_grad(set_to_none=True)
    values = model(batch.response_positions, Reading(read, batch.response_tokens, TILE), **batch.inputs)
    (values * torch.linspace(1.0, 2.0, len(values))).sum().backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    if summed:
        for gradient in gradients.values():
            dist.all_reduce(gradient)
    return values.detach(), gradients


def compare(rank: int, directory: Path) -> None:
    ALL_ATTENTION_FUNCTIONS.register(KERNEL, by_rows)
    for path in sorted(directory.iterdir()):
        if path.is_dir():
            _compare(path, rank)


def _compare(path: Path, rank: int) -> None:
    encoder = load_encoder(path)
    read, towers = ResponseLogprobs(encoder, 0.7), encoder.adapter.towers

    def loaded() -> HeadedModel:
        return load_policy(encoder.adapter, path, torch.float32)

    model, wanted = loaded(), dict[str, Passed]()
    for kind in ("text", *kinds(encoder)):
        rows, features = groups(encoder, kind)
        wanted[kind] = passed(model, collate(rows, [], features, 0), read, summed=False)
    for kernel, layouts in (("sdpa", (False, True)), (KERNEL, (True,))):
        model = loaded()
        model.backbone.attention_kernel = kernel
        # Recomputed layers exchange once more in the backward pass.
        model.backbone.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.train()
        spread_over(model, encoder.adapter, sequence_group(2))
        widths = seen(model)
        for kind in wanted:
            rows, features = groups(encoder, kind)
            for packed in layouts:
                widths.clear()
                batch = collate_lines(rows, [0] * len(rows), [], features, 0, towers, packed=packed, spread=2)
                try:
                    alike(wanted[kind], passed(model, batch, read, summed=True))
                except AssertionError as error:
                    where = f"{path.name}, {kind}, {kernel}, packed={packed}, rank {rank}"
                    raise AssertionError(f"{where}: {error}") from error
                assert set(widths) == {batch.inputs["input_ids"].shape[1] // 2}, "each rank has half of the tokens"


def seen(model: HeadedModel) -> list[int]:
    """Noted from now on: tokens that the first of the language model's layers computes."""
    widths: list[int] = []

    def note(module: torch.nn.Module, given: tuple[Tensor, ...]) -> None:
        widths.append(given[0].shape[1])

    layer = next(m for n, m in model.backbone.named_modules() if n.endswith("layers.0") and "visual" not in n
                 and "tower" not in n)  # fmt: skip
    layer.register_forward_pre_hook(note)
    return widths


def test_values_and_gradients_are_those_of_one_rank(tmp_path: Path) -> None:
    for family, build in FAMILIES.items():
        build(tmp_path / family, 0)
    run_ranks(2, compare, tmp_path)


def learn(rank: int, directory: Path) -> None:
    encoder = load_encoder(directory / "omni")
    rows = media_rows(encoder, NUMBERS, [[0], [1, 0], [-1, 0, 0.5], [0], [0, -1]])

    def learned(spread: int, stage: int, *, shared: bool = True) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
        engine = EngineConfig(
            zero_stage=stage, sequence_parallel=spread, micro_batch_tokens=100, shared_prompt=shared, logits_tile=4
        )
        # A large eps makes the update follow the gradient's size, not only its sign.
        learner = LearnerConfig(engine=engine, optimizer=OptimizerConfig(lr=0.1, eps=1.0, max_grad_norm=0.5))
        cfg = SFTConfig(name="n", steps=2, batch_size=6, workers={"replicas": 2}, data={"path": "d"}, learner=learner,
                        model={"path": str(directory / "omni")})  # fmt: skip
        worker = SupervisedWorker(WorkerPlan(cfg, SFTTask(0.5), directory, 2, "cpu"), rank, 2)
        own = rows.slice(0, 3) if rank == 0 else rows.slice(3)
        metrics = [worker.evaluate(iter([own])), worker.step(own), worker.step(own)]
        return metrics, worker._engine.weights()

    for stage in (2, 3):
        want, weights = learned(1, stage)
        assert want[2]["loss"] < want[1]["loss"]
        for shared in (True, False):
            found, spread_weights = learned(2, stage, shared=shared)
            for was, now in zip(want, found, strict=True):
                assert now == pytest.approx(was, rel=1e-4, abs=1e-5), f"stage {stage}"
            for name, tensor in weights.items():
                torch.testing.assert_close(spread_weights[name], tensor, atol=1e-5, rtol=1e-4, msg=name)


def test_two_steps_are_those_of_data_parallel_ranks(omni: Path, tmp_path: Path) -> None:
    (tmp_path / "omni").symlink_to(omni)
    run_ranks(2, learn, tmp_path)


def test_each_share_goes_to_the_ranks_that_are_spread_over() -> None:
    learners = Learners(ActorGroup(("a", "b", "c", "d"), (1, 2, 3, 4)), PassBudget(100).over(2), 1.0, 2)
    first, second = Shard((0,), ()), Shard((1,), ())
    assert learners.shares == 2
    assert list(learners._each([first, second])) == [(1, first), (2, first), (3, second), (4, second)]
    assert learners.budget == PassBudget(200, packed=True, one_line=True)


def test_a_pass_for_many_ranks_is_one_line_that_they_can_divide() -> None:
    rows = [TokenRow([5, 6, 7], [8], []), TokenRow([5, 6, 7], [9], [])]
    budget = PassBudget(20, shared=True).over(2)
    (shard,) = one_pass_plan([4, 4], [frozenset()] * 2, 1, budget, SharedPrompts([0, 0], [3, 3]))
    assert shard.steps == ((MicroBatch((0, 1), lines=(0, 0)),),)
    batch = collate_lines(rows, (0, 0), [TokenRow([1], [], [])], {}, 99, (), spread=4)
    assert batch.inputs["input_ids"].tolist() == [[5, 6, 7, 8, 9, 1, 99, 99]]
    assert batch.anchor_positions.tolist() == [5]


@pytest.mark.parametrize(
    ("heads", "keys", "ranks", "reason"),
    [
        (4, 2, 2, None),
        (8, 2, 4, None),
        (4, 2, 3, r"\(qwen2_5_vl\) has 4 attention heads, which 3 ranks cannot divide"),
        (6, 3, 2, "has 3 key-value heads, which 2 ranks neither divide nor repeat"),
    ],
)
def test_heads_that_cannot_be_divided_are_refused(
    heads: int, keys: int, ranks: int, reason: str | None, tmp_path: Path
) -> None:
    text = {"num_attention_heads": heads, "num_key_value_heads": keys}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2_5_vl", "text_config": text}))
    found = why_not_spread(tmp_path, ranks)
    assert found is None if reason is None else re.search(reason, str(found))


def test_a_family_that_takes_no_lines_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_llava(tmp_path, 0)
    monkeypatch.setattr("mmrlhf_ray.planning.sequence.adapter_for", lambda path: adapter_for(path, unverified=True))
    assert "family llava, whose rows cannot be laid in lines" in str(why_not_spread(tmp_path, 2))
