"""A frozen policy that two ranks hold together says what one process says that holds all of it."""

from pathlib import Path

import numpy as np
import torch

from mmrlhf_ray.config import ModelConfig
from mmrlhf_ray.data.batches.batching import PassBudget, Shard, media_kinds, one_pass_plan
from mmrlhf_ray.data.batches.collate import TokenRow
from mmrlhf_ray.data.encoding.encode import Encoder, Features, load_encoder
from mmrlhf_ray.training.logprobs import frozen_policy
from mmrlhf_ray.training.sharded import sharded_policy
from tests.unit.tiny import mixed_media, mixed_rows
from tests.unit.training.rank_process import run_ranks

TEMPERATURE = 0.7


def planned(encoder: Encoder, ranks: int) -> tuple[list[TokenRow], dict[str, Features], list[Shard]]:
    """Rows of every modality, and the ranks' passes over them."""
    rows, features = mixed_rows(encoder)
    kinds = [media_kinds("+".join(sorted({m.kind for m in shown})) or "text") for shown in mixed_media(encoder)]
    return rows, features, one_pass_plan(list(map(len, rows)), kinds, ranks, PassBudget(max(map(len, rows))))


def _answer(rank: int, directory: Path) -> None:
    model = ModelConfig(path=(directory / "model").read_text())
    held, passes, read = sharded_policy(model, TEMPERATURE, torch.device("cpu"))
    rows, features, shards = planned(load_encoder(model.path), 2)
    own = [rows[row] for row in shards[rank].rows]
    for time in range(2):  # DeepSpeed prefetches by what the passes before have used
        found = passes.per_token(own, features, shards[rank].steps[0], read)
        np.savez(directory / f"{rank}-{time}.npz", *found)
    (directory / f"held-{rank}").write_text(str(held.held))


def test_two_ranks_say_what_one_server_says(omni: Path, omni_encoder: Encoder, tmp_path: Path) -> None:
    (tmp_path / "model").write_text(str(omni))
    run_ranks(2, _answer, tmp_path)

    rows, features, shards = planned(omni_encoder, 2)
    passes = [shard.steps[0] for shard in shards]
    assert len(passes[0]) == len(passes[1])
    assert any(m.dummies for of_rank in passes for m in of_rank), "one has media that the other has not"
    server = frozen_policy(ModelConfig(path=str(omni)), TEMPERATURE, "cpu")
    _, _, (alone,) = planned(omni_encoder, 1)
    found = server.passes.per_token([rows[row] for row in alone.rows], features, alone.steps[0], server.read)
    want = dict(zip(alone.rows, found, strict=True))
    for rank, shard in enumerate(shards):
        for time in range(2):
            with np.load(tmp_path / f"{rank}-{time}.npz") as answers:
                for row, got in zip(shard.rows, answers.values(), strict=True):
                    np.testing.assert_allclose(got, want[row], atol=1e-6, rtol=0.0)

    total = sum(p.numel() for p in server.model._model.parameters())
    held = [int((tmp_path / f"held-{rank}").read_text()) for rank in range(2)]
    assert max(held) < 0.75 * total, "each holds its half, and what is too small to be divided"
