"""What teachers say of rollouts, and the policy's distance from them, through real models and passes."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from mmrlhf_ray.algorithms.distillation import teacher_kl, teacher_numbers
from mmrlhf_ray.config import AlgorithmConfig, DistillationConfig, ModelConfig, TeacherConfig
from mmrlhf_ray.data.batches.batching import PassBudget, media_kinds, one_pass_plan
from mmrlhf_ray.data.encoding.encode import Encoder
from mmrlhf_ray.data.encoding.features import features_table
from mmrlhf_ray.models import export_model, load_policy
from mmrlhf_ray.training.distilling import COLUMN, WithTeachers, numbers_of
from mmrlhf_ray.training.logprobs import ResponseLogprobs
from mmrlhf_ray.training.objectives import PolicyObjective
from mmrlhf_ray.training.passes import Inference, Passes
from mmrlhf_ray.workers.roles.reference import Reference
from tests.unit.tiny import mixed_media, mixed_rows, rollout_table

TEMPERATURE = 0.9


@pytest.fixture(scope="module")
def teachers(omni_encoder: Encoder, omni: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[TeacherConfig, ...]:
    """Two other models, of weights 1 and 3: the policy's with noise."""
    found = []
    for seed, weight in enumerate((1.0, 3.0)):
        directory = tmp_path_factory.mktemp("teacher")
        model, generator = load_policy(omni_encoder.adapter, omni, torch.float32), torch.Generator().manual_seed(seed)
        tensors = {
            name: p.detach() + 0.05 * torch.randn(p.shape, generator=generator) for name, p in model.named_parameters()
        }
        export_model(omni_encoder.adapter, omni, directory, tensors, scalar=False)
        found.append(TeacherConfig(model=ModelConfig(path=str(directory)), weight=weight))
    return tuple(found)


@pytest.mark.parametrize("top_k", [3, None])
@pytest.mark.parametrize("ranks", [1, 2])
def test_the_distance_is_that_of_the_distributions(
    top_k: int | None, ranks: int, omni_encoder: Encoder, omni: Path, teachers: tuple[TeacherConfig, ...]
) -> None:
    cfg = DistillationConfig(teachers=teachers, top_k=top_k, divergence="forward")
    prompts, features = mixed_rows(omni_encoder)
    rows = [replace(row, response=row.response * (1 + n % 3)) for n, row in enumerate(prompts)]
    shown = mixed_media(omni_encoder)
    modality = ["+".join(sorted({clip.kind for clip in own})) or "text" for own in shown]
    rollouts = rollout_table(rows, modality=modality)
    server = Reference(None, TEMPERATURE, "cpu", (), cfg)
    said: dict[int, np.ndarray] = {}
    kinds = [media_kinds(own) for own in modality]
    for shard in one_pass_plan([len(row) for row in rows], kinds, ranks, PassBudget(200)):
        answer, _ = server.teach(rollouts, shard, features_table(features))
        said |= dict(zip(shard.rows, answer, strict=True))
    numbers = pa.array([said[row].tolist() for row in range(len(rows))], pa.list_(pa.float32()))
    table = rollouts.append_column(COLUMN, numbers)

    read = ResponseLogprobs(omni_encoder, TEMPERATURE)
    policy = load_policy(omni_encoder.adapter, omni, torch.float32)
    (whole,) = one_pass_plan([len(row) for row in rows], kinds, 1, PassBudget(4096))
    for tile in (2, 1024):
        passes = Passes(Inference(policy), omni_encoder, torch.device("cpu"), tile=tile)
        for micro, batch in zip(whole.steps[0], passes.batches(rows, features, whole.steps[0]), strict=True):
            beside = numbers_of(table, micro.rows)
            got, anchors = passes.run(batch, WithTeachers(read, cfg, entropy=True), beside=beside)
            assert torch.isfinite(anchors).all()
            want = passes.run(batch, read.with_entropy)[0]
            assert torch.equal(got[:, :2], want)
            logits = [passes.run(batch, None)[0]]
            for teacher in teachers:
                model = load_policy(omni_encoder.adapter, Path(teacher.model.path), torch.float32)
                logits.append(Passes(Inference(model), omni_encoder, torch.device("cpu")).run(batch, None)[0])
            banned = torch.tensor(omni_encoder.banned_token_ids)
            kl = partial(teacher_kl, logits[0], divergence="forward", top_k=top_k, temperature=TEMPERATURE)
            far = [kl(teacher_numbers(own, top_k, TEMPERATURE, banned), banned=banned) for own in logits[1:]]
            assert (far[0] - far[1]).abs().max() > 1e-3
            torch.testing.assert_close(got[:, 2], (far[0] + 3 * far[1]) / 4, atol=1e-5, rtol=1e-4)


def test_a_rank_without_rows_reads_nothing(omni_encoder: Encoder, omni: Path) -> None:
    cfg = DistillationConfig(teachers=(TeacherConfig(model=ModelConfig(path=str(omni))),), top_k=3)
    objective = PolicyObjective(AlgorithmConfig(), TEMPERATURE, cfg)
    beside = objective.beside(rollout_table([]).append_column(COLUMN, pa.array([], pa.list_(pa.float32()))))
    assert beside is not None
    assert beside([]).shape == (0, 0)
    output = objective.loss_reader(omni_encoder)(torch.zeros(2, 8448), torch.zeros(2, 1))
    assert output.shape == (2, 2)
    assert torch.equal(output[:, 1], torch.zeros(2))


def test_without_teachers_nothing_is_read_besides(omni_encoder: Encoder) -> None:
    objective = PolicyObjective(AlgorithmConfig(), TEMPERATURE)
    assert objective.beside(rollout_table([])) is None
    assert not isinstance(objective.loss_reader(omni_encoder), WithTeachers)


def test_a_server_of_teachers_alone_has_no_reference(omni: Path) -> None:
    cfg = DistillationConfig(teachers=(TeacherConfig(model=ModelConfig(path=str(omni))),))
    with pytest.raises(ValueError, match="holds teachers alone"):
        Reference(None, 1.0, "cpu", (), cfg).logprobs(rollout_table([]), None)  # type: ignore[arg-type]


@pytest.mark.parametrize("entropy_coef", [0.0, 0.1])
def test_the_loss_adds_the_mean_divergence_of_the_tokens_that_are_learned_from(
    entropy_coef: float, omni_encoder: Encoder, omni: Path
) -> None:
    cfg = DistillationConfig(teachers=(TeacherConfig(model=ModelConfig(path=str(omni))),), coef=0.5)
    columns = {
        "response_mask": [[True, False, True], [True]],
        **{name: [[-1.0, -1.0, -1.0], [-1.0]] for name in ("old_logprobs", "rollout_logprobs")},
        "advantages": [[0.0, 0.0, 0.0], [0.0]],
    }
    algorithm = AlgorithmConfig(entropy_coef=entropy_coef)
    loss = PolicyObjective(algorithm, TEMPERATURE, cfg).loss(omni_encoder, pa.table(columns), 3.0, 0.0)
    entropies = [[2.0], [5.0], [2.0], [2.0]] if entropy_coef else [[]] * 4
    far = (1.0, 100.0, 2.0, 6.0)
    rows = [[-1.0, *entropy, divergence] for entropy, divergence in zip(entropies, far, strict=True)]
    output = torch.tensor(rows, requires_grad=True)
    total, stats = loss(output, None, [0, 1])  # type: ignore[arg-type]
    assert total.item() == pytest.approx(0.5 * (1 + 2 + 6) / 3 - entropy_coef * 2.0)
    assert stats["distillation_loss"].item() == 9.0
    total.backward()
    assert output.grad is not None
    assert output.grad[:, -1].tolist() == pytest.approx([1 / 6, 0.0, 1 / 6, 1 / 6])
