"""Reference log-probabilities are those of one response alone, and their fingerprint follows what they depend on."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from mmrlhf_ray.algorithms.logprobs import token_logprobs
from mmrlhf_ray.config import ModelConfig
from mmrlhf_ray.data.batches.batching import MicroBatch, PassBudget
from mmrlhf_ray.data.batches.collate import TokenRow
from mmrlhf_ray.data.encoding.encode import Encoder, load_encoder
from mmrlhf_ray.data.encoding.training_rows import features_from_bytes
from mmrlhf_ray.models import load_policy
from mmrlhf_ray.pipelines.preference.ref_logprobs import fingerprint
from mmrlhf_ray.schema import TRAINING_ROW
from mmrlhf_ray.training.passes import Inference, Passes
from mmrlhf_ray.workers.roles.reference_rows import ReferenceRows
from tests.unit.training.rows import NUMBERS, media_rows

NOBODY = [[0.0] * len(of_row) for of_row in NUMBERS]


@pytest.mark.parametrize("shared", [False, True])
def test_every_token_of_every_response(vl: Path, vl_encoder: Encoder, shared: bool) -> None:
    rows = media_rows(vl_encoder, NUMBERS, NOBODY)
    # In passes of a few rows, whose order is not the table's.
    answers = ReferenceRows(ModelConfig(path=str(vl)), PassBudget(200, 0.3, shared), "cpu")(rows)
    assert answers.column("row").to_pylist() == [0, 1, 2, 3, 4]
    alone = Passes(Inference(load_policy(vl_encoder.adapter, vl, torch.float32)), load_encoder(vl), torch.device("cpu"))
    banned = torch.tensor(vl_encoder.banned_token_ids)
    for row, found in zip(rows.to_pylist(), answers.column("ref_logprobs").to_pylist(), strict=True):
        for response, values in zip(row["responses_token_ids"], found, strict=True):
            sequence = TokenRow(row["context_token_ids"], response, row["media_ids"])
            (want,) = alone.per_token(
                [sequence],
                features_from_bytes([row["features"]]),
                [MicroBatch((0,))],
                lambda output, tokens: token_logprobs(output, tokens, 1.0, banned),
            )
            np.testing.assert_allclose(values, want, rtol=1e-4, atol=1e-5)


def test_the_fingerprint_follows_rows_and_model(vl: Path, vl_encoder: Encoder, tmp_path: Path) -> None:
    rows, model = media_rows(vl_encoder, NUMBERS, NOBODY), tmp_path / "model"
    shutil.copytree(vl, model)
    reference = ModelConfig(path=str(model))
    start = fingerprint(rows, reference)
    assert fingerprint(pa.concat_tables([rows.slice(0, 2), rows.slice(2)]), reference) == start
    pq.write_table(rows, tmp_path / "rows.parquet")
    assert fingerprint(pq.read_table(tmp_path / "rows.parquet", schema=TRAINING_ROW), reference) == start
    features = rows.column("features").take(pa.array([4, 3, 2, 1, 0]))
    others = [
        fingerprint(rows.slice(1), reference),
        fingerprint(media_rows(vl_encoder, [*NUMBERS[:-1], [4, 0]], NOBODY), reference),
        fingerprint(rows.set_column(rows.schema.get_field_index("features"), "features", features), reference),
        fingerprint(rows, ModelConfig(path=str(model), dtype="bfloat16")),
    ]
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (model / "model.safetensors").write_bytes(weights)
    assert len({start, *others, fingerprint(rows, reference)}) == 6
