"""Ragged rows to padded tensors. Nothing else in the project pads."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from mmrlhf_ray.data.encoding.encode import Features, after_start
from mmrlhf_ray.models import CLIPS, ROWS


@dataclass(frozen=True)
class TokenRow:
    """One sequence: what the model reads, and what it wrote."""

    context: Sequence[int]
    response: Sequence[int]
    media_ids: Sequence[str]
    shown_later: int = 0
    """How many of the media, the last ones, stand in the response: an episode's observations."""

    def __len__(self) -> int:
        return len(self.context) + len(self.response)


@dataclass(frozen=True)
class Batch:
    """Tensors of one pass. B rows (dummies last), L positions, N response tokens of the real rows."""

    inputs: dict[str, Tensor]
    """The family's model inputs."""
    response_positions: Tensor
    """[N] flat positions whose next token is a response token, row by row."""
    response_tokens: Tensor
    """[N] those next tokens."""
    last_positions: Tensor
    """[B real] flat position of each row's last token."""
    anchor_positions: Tensor
    """[dummies] positions that tie the dummy rows to the loss with weight zero."""

    def to(self, device: torch.device) -> "Batch":
        return Batch(
            {k: v.to(device) for k, v in self.inputs.items()},
            *(getattr(self, f).to(device) for f in list(self.__dataclass_fields__)[1:]),
        )


def rollout_rows(table: pa.Table, *, with_facts: bool, start: Sequence[int] = ()) -> list[TokenRow]:
    """Rows of a ROLLOUT or EXPERIENCE table. `with_facts` puts the facts before the prompt, for reward models, but
    behind the `start` that the family begins every text with."""
    columns = [
        table.column(name).to_pylist()
        for name in ("facts_token_ids", "prompt_token_ids", "response_token_ids", "media_ids", "segments")
    ]
    return [
        TokenRow(after_start(f, p, start) if with_facts else p, r, m, sum(len(one["shows"]) for one in segments))
        for f, p, r, m, segments in zip(*columns, strict=True)
    ]


def flat_column(table: pa.Table, name: str, rows: Sequence[int]) -> np.ndarray:
    """A per-token column of the given rows, concatenated: [N]."""
    lists = table.column(name).combine_chunks().take(pa.array(rows, pa.int64()))
    return lists.flatten().to_numpy(zero_copy_only=False)


def pad_rows(values: Tensor, lengths: Sequence[int]) -> Tensor:
    """[N] as [rows, longest], zero (False) beyond each row's end. Without any row: one of one padding position, since
    a rank that only keeps the others company has none.
    """
    if not lengths:
        return torch.cat([values, values.new_zeros(1)])[None]
    return pad_sequence(list(values.split(list(lengths))), batch_first=True)


def collate(
    rows: Sequence[TokenRow],
    dummies: Sequence[TokenRow],
    features: Mapping[str, Features],
    pad_token_id: int,
    towers: Collection[str] = (),
) -> Batch:
    """Pad on the right. `dummies` are rows that only keep the ranks' media towers in step. `towers`: keys of features
    that hold each clip once."""
    everything = [*rows, *dummies]
    width = max(len(row) for row in everything)
    input_ids = torch.full((len(everything), width), pad_token_id, dtype=torch.long)
    attention_mask = torch.zeros((len(everything), width), dtype=torch.long)
    for i, row in enumerate(everything):
        input_ids[i, : len(row)] = torch.tensor([*row.context, *row.response])
        attention_mask[i, : len(row)] = 1
    positions = [torch.arange(i * width + len(row.context) - 1, i * width + len(row) - 1) for i, row in enumerate(rows)]
    empty = torch.empty(0, dtype=torch.long)
    ends = torch.tensor([i * width + len(row) - 1 for i, row in enumerate(everything)], dtype=torch.long)
    return Batch(
        inputs={
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            **media_inputs(everything, features, towers),
        },
        response_positions=torch.cat([empty, *positions]),
        response_tokens=torch.tensor([t for row in rows for t in row.response], dtype=torch.long),
        last_positions=ends[: len(rows)],
        anchor_positions=ends[len(rows) :],
    )


def media_inputs(
    rows: Sequence[TokenRow], features: Mapping[str, Features], towers: Collection[str]
) -> dict[str, Tensor]:
    """The clips' features, one clip after the other as the rows show them; of `towers` each clip once."""
    shown: dict[str, list[str]] = {}
    for row in rows:
        for media_id in row.media_ids:
            for key in features[media_id]:
                shown.setdefault(key, []).append(media_id)
    inputs: dict[str, Tensor] = {}
    for key, media_ids in shown.items():
        once = list(dict.fromkeys(media_ids)) if key in towers else media_ids
        if len(once) < len(media_ids):
            number = {media_id: i for i, media_id in enumerate(once)}
            inputs[CLIPS + key] = torch.tensor([number[media_id] for media_id in media_ids])
            inputs[ROWS + key] = torch.tensor([len(features[media_id][key]) for media_id in once])
        # A copy, because Arrow's buffers are read-only and torch would warn on each.
        values = [torch.from_numpy(features[media_id][key].copy()) for media_id in once]
        inputs[key] = torch.cat(_pad_trailing(values))
    return inputs


def _pad_trailing(values: list[Tensor]) -> list[Tensor]:
    """Zero-pad all dimensions but the first to the longest: sounds differ in frames, some families' images in size."""
    shape = [max(lengths) for lengths in zip(*(v.shape[1:] for v in values), strict=True)]
    missing = [[end - length for end, length in zip(shape, v.shape[1:], strict=True)] for v in values]
    return [pad(v, [n for m in reversed(of_v) for n in (0, m)]) for v, of_v in zip(values, missing, strict=True)]
