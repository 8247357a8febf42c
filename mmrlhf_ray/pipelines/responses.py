"""Token-level rollouts as text for people."""

from collections.abc import Sequence

import pyarrow as pa

from mmrlhf_ray.data.encoding.encode import Encoder, decode_response
from mmrlhf_ray.schema import RESPONSE, check

SWAPPED = "#swapped"
"""Suffix of the prompt_id under which a prompt is asked with another prompt's media."""


def response_table(
    encoder: Encoder, table: pa.Table, policy: str, step: int, scores: Sequence[float], kl: Sequence[float]
) -> pa.Table:
    """RESPONSE rows of a ROLLOUT or EXPERIENCE table; `scores` and `kl` per row, NaN where there is none."""
    names = ("prompt_id", "task", "modality", "finish_reason", "response_token_ids")
    rows = table.select(list(names)).to_pylist()
    responses = []
    for row, score, divergence in zip(rows, scores, kl, strict=True):
        prompt_id = row["prompt_id"].removesuffix(SWAPPED)
        ids = row["response_token_ids"]
        responses.append(
            {
                "step": step,
                "policy": policy,
                "media": "own" if prompt_id == row["prompt_id"] else "swapped",
                "prompt_id": prompt_id,
                "task": row["task"],
                "modality": row["modality"],
                "text": decode_response(encoder, ids),
                "finish_reason": row["finish_reason"],
                "response_tokens": len(ids),
                "score": score,
                "kl": divergence,
            }
        )
    return check(pa.Table.from_pylist(responses, schema=RESPONSE), RESPONSE, "response_table")
