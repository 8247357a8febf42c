"""TRAINING_ROW tables for tests of what is trained."""

import math
from collections.abc import Sequence

import pyarrow as pa
import torch
from torch import Tensor

from mmrlhf_ray.data.batches.collate import Batch, TokenRow, collate
from mmrlhf_ray.data.encoding.encode import Encoder
from mmrlhf_ray.data.encoding.features import features_table
from mmrlhf_ray.data.encoding.training_rows import table_to_bytes
from mmrlhf_ray.schema import TRAINING_ROW
from mmrlhf_ray.training.tasks import SupervisedTask
from tests.unit.tiny import encode, mixed_media, mixed_responses

CONTEXT = [20, 21]
NUMBERS = [[0], [1, 2], [3, 4, 0], [2], [4, 1]]
"""Responses of rows of 1, 2 and 3, by number in mixed_responses()."""


def row_table(*responses: Sequence[Sequence[int]], **columns: Sequence[object]) -> pa.Table:
    """A row of text for each list of responses; `columns` replaces defaults, row by row."""
    rows = [
        {
            "row": i,
            "prompt_id": str(i),
            "task": "t",
            "modality": "text",
            "context_token_ids": CONTEXT,
            "responses_token_ids": of_row,
            "margin": 0.5,
            "feedback": [0.0] * len(of_row),
            "ranks": [],
            "ratings": [],
            "ref_logprobs": [],
            "marked": [],
            "media_ids": [],
            "features": b"",
            "problem": "",
        }
        | {name: values[i] for name, values in columns.items()}
        for i, of_row in enumerate(responses)
    ]
    return pa.Table.from_pylist(rows, schema=TRAINING_ROW)


def batch_of(rows: pa.Table) -> Batch:
    """All responses of the rows in one pass; an empty table gives a pass with a dummy row alone."""
    responses = [r for of_row in rows.column("responses_token_ids").to_pylist() for r in of_row]
    dummies = [] if responses else [TokenRow(CONTEXT, [], [])]
    return collate([TokenRow(CONTEXT, r, []) for r in responses], dummies, {}, 0)


def logits_for(encoder: Encoder, rows: pa.Table) -> Tensor:
    """Noise for every response token."""
    tokens = sum(len(r) for of_row in rows.column("responses_token_ids").to_pylist() for r in of_row)
    return torch.randn(tokens, len(encoder.tokenizer), generator=torch.Generator().manual_seed(0))


def read_by(task: SupervisedTask, encoder: Encoder, logits: Tensor, rows: pa.Table) -> Tensor:
    """What the task reads from the logits."""
    read = task.reader(encoder)
    assert read is not None
    return read(logits, batch_of(rows).response_tokens)


def tokens_by_hand(encoder: Encoder, logits: Tensor, rows: pa.Table) -> list[list[float]]:
    """log p of each token of each response, without the tokens that are never sampled."""
    allowed = [i for i in range(logits.shape[1]) if i not in encoder.banned_token_ids]
    answers, found = iter(logits.tolist()), []
    for responses in rows.column("responses_token_ids").to_pylist():
        for response in responses:
            scored = [(next(answers), token) for token in response]
            found.append([s[t] - math.log(sum(math.exp(s[i]) for i in allowed)) for s, t in scored])
    return found


def by_hand(encoder: Encoder, logits: Tensor, rows: pa.Table) -> list[float]:
    """log p of each response."""
    return [sum(tokens) for tokens in tokens_by_hand(encoder, logits, rows)]


def media_rows(encoder: Encoder, numbers: list[list[int]], feedback: list[list[float]]) -> pa.Table:
    """Rows that show media of every kind, with made-up reference log-probabilities."""
    shown, responses = mixed_media(encoder), mixed_responses(encoder)
    prompts = [encode(encoder, media) for media in shown]
    texts = [[responses[k] for k in of_row] for of_row in numbers]
    return row_table(
        *texts,
        context_token_ids=[prompt.token_ids for prompt in prompts],
        media_ids=[[m.media_id for m in media] for media in shown],
        features=[table_to_bytes(features_table(prompt.features)) for prompt in prompts],
        modality=["+".join(sorted({m.kind for m in media}, key=["image", "audio", "video"].index)) or "text"
                  for media in shown],
        feedback=feedback,
        ref_logprobs=[[[-5.0 - 0.1 * t for t in range(len(r))] for r in of_row] for of_row in texts],
    )  # fmt: skip
