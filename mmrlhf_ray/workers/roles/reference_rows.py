"""The reference policy of preference training, which Ray Data maps over the rows once."""

from collections.abc import Sequence

import pyarrow as pa

from mmrlhf_ray.config.base import ModelConfig
from mmrlhf_ray.data.batches.batching import PassBudget, SharedPrompts, media_kinds, one_pass_plan
from mmrlhf_ray.data.batches.collate import TokenRow
from mmrlhf_ray.data.batches.ragged import Ragged, gather, offsets_of
from mmrlhf_ray.data.encoding.training_rows import features_from_bytes
from mmrlhf_ray.schema import TRAINING_ROW, check
from mmrlhf_ray.training.logprobs import frozen_policy

REF_LOGPROBS = pa.schema([TRAINING_ROW.field("row"), TRAINING_ROW.field("ref_logprobs")])
"""The schema of its answers."""


class ReferenceRows:
    """A frozen policy: TRAINING_ROW in, REF_LOGPROBS out, at temperature 1."""

    def __init__(self, model: ModelConfig, budget: PassBudget, device: str, allowed: Sequence[str] = ()):
        self._policy = frozen_policy(model, 1.0, device, allowed)
        self._budget = budget

    def __call__(self, batch: pa.Table) -> pa.Table:
        """log p of every token of every response, row by row."""
        check(batch, TRAINING_ROW, "ReferenceRows")
        sequences, kinds, sizes, owners = [], [], [], []
        for number, row in enumerate(
            batch.select(["context_token_ids", "responses_token_ids", "media_ids", "modality"]).to_pylist()
        ):
            sequences += [TokenRow(row["context_token_ids"], r, row["media_ids"]) for r in row["responses_token_ids"]]
            kinds += [media_kinds(row["modality"])] * len(row["responses_token_ids"])
            sizes.append(len(row["responses_token_ids"]))
            owners += [number] * sizes[-1]
        prompts = SharedPrompts(owners, [len(sequence.context) for sequence in sequences])
        (shard,) = one_pass_plan(list(map(len, sequences)), kinds, 1, self._budget, prompts)
        features = features_from_bytes(batch.column("features").to_pylist())
        ordered = [sequences[i] for i in shard.rows]
        found = self._policy.passes.per_token(ordered, features, shard.steps[0], self._policy.read)
        logprobs = gather([Ragged.of_rows(found)], [shard.rows])
        column = pa.ListArray.from_arrays(pa.array(offsets_of(sizes).astype("int32")), logprobs.to_arrow())
        return pa.table([batch.column("row"), column], schema=REF_LOGPROBS)
