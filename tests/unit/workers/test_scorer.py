"""Several reward models over the same rollouts: score and uncertainty of each, in order."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mmrlhf_ray.config import ModelConfig
from mmrlhf_ray.data.batches.batching import PassBudget, SharedPrompts, media_kinds, one_pass_plan
from mmrlhf_ray.data.batches.collate import collate
from mmrlhf_ray.data.encoding.encode import Encoder
from mmrlhf_ray.data.encoding.features import features_table
from mmrlhf_ray.errors import ModelError
from mmrlhf_ray.models import ScalarHead, export_model, load_scalar
from mmrlhf_ray.models.score_fit import FormFit, ScoreFit, TaskScale, write_score_fit
from mmrlhf_ray.workers.roles.scorer import Scorer
from tests.unit.tiny import mixed_media, mixed_rows, rollout_table

LAYOUTS = (ScalarHead(), ScalarHead(3, {"helpful": 0.5, "short": -1.0}))


@pytest.fixture(scope="module")
def reward_models(omni_encoder: Encoder, omni: Path, tmp_path_factory: pytest.TempPathFactory) -> list[ModelConfig]:
    """A single head, and an ensemble of aspect heads, of random weights."""
    directory = tmp_path_factory.mktemp("reward_models")
    for number, layout in enumerate(LAYOUTS):
        model = load_scalar(omni_encoder.adapter, omni, torch.float32, new_head=True, layout=layout)
        torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(number))
        tensors = {name: p.detach() for name, p in model.named_parameters()}
        export_model(omni_encoder.adapter, omni, directory / str(number), tensors, scalar=True, layout=layout)
    return [ModelConfig(path=str(directory / str(number))) for number in range(len(LAYOUTS))]


@torch.no_grad()
@pytest.mark.parametrize(("ranks", "shared"), [(1, False), (2, False), (1, True), (2, True)])
def test_every_model_scores_every_row(
    ranks: int, shared: bool, omni_encoder: Encoder, reward_models: list[ModelConfig]
) -> None:
    prompts, features = mixed_rows(omni_encoder)
    groups = [0, 0, 1, 2, 2, 2, 3, 4]
    rows = [replace(prompts[g], response=prompts[g].response[i % 2 :] * (1 + i % 3)) for i, g in enumerate(groups)]
    shown = mixed_media(omni_encoder)
    modality = ["+".join(sorted({m.kind for m in shown[group]})) or "text" for group in groups]
    facts = [[20] * (group % 3) for group in groups]
    rollouts = rollout_table(rows, facts, modality=modality, group_id=groups)
    scorer = Scorer(reward_models, "cpu")
    scorer.ready()
    lengths, kinds = [len(r) + len(f) for r, f in zip(rows, facts, strict=True)], [media_kinds(m) for m in modality]
    got = np.full((len(rows), 4), np.nan, np.float32)
    members = np.full((len(rows), 4), np.nan, np.float32)
    common = SharedPrompts(groups, [len(row.context) + len(read) for row, read in zip(rows, facts, strict=True)])
    for shard in one_pass_plan(lengths, kinds, ranks, PassBudget(200, shared=shared), common):
        answers, seconds = scorer.score(rollouts, shard, features_table(features))
        assert seconds > 0
        assert all(answer.dtype == np.float32 and answer.shape == (4,) for answer in answers)
        got[list(shard.rows)] = list(answers)
        members[list(shard.rows)] = list(scorer.members(rollouts, shard, features_table(features))[0])
    for number, (layout, model) in enumerate(zip(LAYOUTS, reward_models, strict=True)):
        scalar = load_scalar(omni_encoder.adapter, Path(model.path), torch.float32, new_head=False).eval()
        for i, (row, read) in enumerate(zip(rows, facts, strict=True)):
            batch = collate([type(row)([*read, *row.context], row.response, row.media_ids)], [], features, 0)
            score, uncertainty = layout.score(scalar(batch.last_positions, **batch.inputs))
            want = [float(score), float(uncertainty)]
            assert got[i, 2 * number : 2 * number + 2].tolist() == pytest.approx(want, abs=1e-4)
            want = layout.member_scores(scalar(batch.last_positions, **batch.inputs))[0].tolist()
            assert members[i, (slice(0, 1), slice(1, 4))[number]].tolist() == pytest.approx(want, abs=1e-4)
    assert not got[:, 1].any()
    assert (got[:, 3] > 0).all()
    assert len({round(float(s), 3) for s in got[:, 2]}) == len(rows)


def test_models_with_other_tokens_are_refused(
    vl: Path, reward_models: list[ModelConfig], vl_encoder: Encoder, tmp_path: Path
) -> None:
    tensors = dict(load_scalar(vl_encoder.adapter, vl, torch.float32, new_head=True).named_parameters())
    export_model(vl_encoder.adapter, vl, tmp_path / "vl", tensors, scalar=True)
    scorer = Scorer([reward_models[0], ModelConfig(path=str(tmp_path / "vl"))], "cpu")
    with pytest.raises(ModelError, match="expected the model family of"):
        scorer.ready()


def test_a_fit_and_a_quantile_change_the_scores(
    omni_encoder: Encoder, reward_models: list[ModelConfig], tmp_path: Path
) -> None:
    prompts, features = mixed_rows(omni_encoder)
    rollouts = rollout_table(prompts, [[]] * len(prompts), modality=["text"] * len(prompts))
    lengths, kinds = [len(r) for r in prompts], [media_kinds("text")] * len(prompts)
    shutil.copytree(reward_models[1].path, tmp_path / "fitted")
    fit = ScoreFit({"length": FormFit(0.5, 1.0, 0.0, 9.0)}, {"": TaskScale(0.25, 2.0)})
    write_score_fit(tmp_path / "fitted", fit)
    models = [reward_models[1], ModelConfig(path=str(tmp_path / "fitted"))]
    scorer = Scorer(models, "cpu", [None, 0.25])
    for shard in one_pass_plan(lengths, kinds, 1, PassBudget(400)):
        answers, _ = scorer.score(rollouts, shard, features_table(features))
        members, _ = scorer.members(rollouts, shard, features_table(features))
        for row, answer, by_member in zip(shard.rows, answers, members, strict=True):
            plain, fitted = by_member[:3], by_member[3:]
            taken = 0.5 * (math.log1p(len(prompts[row].response)) - 1.0) + 0.25
            np.testing.assert_allclose(fitted, (plain - taken) / 2.0, atol=1e-5)
            want = [plain.mean(), plain.std(), np.quantile(fitted, 0.25), fitted.std()]
            np.testing.assert_allclose(answer, want, atol=1e-5)
