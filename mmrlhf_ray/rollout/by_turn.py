"""Episodes turn by turn: each turn of the policy as a response of its own to all that came before it."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from mmrlhf_ray.data.batches.batching import media_kinds
from mmrlhf_ray.data.encoding.encode import Encoder, decode_response
from mmrlhf_ray.data.encoding.turns import observed_as, observed_text
from mmrlhf_ray.rollout.episode import RESPONSE, Segment, kinds_of
from mmrlhf_ray.schema import ROLLOUT, check, modality_of


def rows_by_turn(rollouts: pa.Table) -> tuple[pa.Table, list[int]]:
    """ROLLOUT with a row for each turn of the policy, its prompt being all before it; and the row of `rollouts`
    (ROLLOUT) that each is of, in order. No two of them share a group, since no two have one prompt."""
    rows: list[dict[str, Any]] = []
    owners: list[int] = []
    for number, row in enumerate(rollouts.to_pylist()):
        segments = row["segments"]
        turns = [place for place, segment in enumerate(segments) if segment["kind"] == RESPONSE]
        found = [_turn(row, segments[:place], segments[place]) for place in turns] if segments else [row]
        rows += [own | {"group_id": -1 - len(rows) - place} for place, own in enumerate(found)]
        owners += [number] * len(found)
    return check(pa.Table.from_pylist(rows, schema=ROLLOUT), ROLLOUT, "rows_by_turn"), owners


def earlier_messages(encoder: Encoder, rollouts: pa.Table) -> list[list[dict[str, Any]]]:
    """Of each row of rows_by_turn(): what was said between the prompt and its turn, as chat messages."""
    observer, found = observed_as(encoder), []
    for row in rollouts.select(["response_token_ids", "segments"]).to_pylist():
        said: list[dict[str, Any]] = []
        for segment in row["segments"]:
            tokens = row["response_token_ids"][segment["start"] : segment["end"]]
            if segment["kind"] == RESPONSE:
                found.append([*said])
                said.append({"role": "assistant", "content": decode_response(encoder, tokens)})
            else:
                shown = [{"type": kind} for kind in segment["shows"]]
                text = {"type": "text", "text": observed_text(encoder, tokens)}
                said.append({"role": observer, "content": [*shown, text]})
        if not row["segments"]:
            found.append([])
    return found


def _turn(row: dict[str, Any], before: Sequence[Segment], turn: Segment) -> dict[str, Any]:
    """A row's turn, which follows the segments `before`."""
    start, end = turn["start"], turn["end"]
    later = kinds_of(row["segments"])
    seen = len(row["media_ids"]) - len(later) + len(kinds_of(before))
    spans = [span for span in row["versions"] if start <= span["start"] < end]
    return {
        **row,
        "modality": modality_of(media_kinds(row["modality"]) | {*kinds_of(before)}),
        "prompt_token_ids": [*row["prompt_token_ids"], *row["response_token_ids"][:start]],
        "media_ids": row["media_ids"][:seen],
        "response_token_ids": row["response_token_ids"][start:end],
        "response_mask": row["response_mask"][start:end],
        "rollout_logprobs": row["rollout_logprobs"][start:end],
        "versions": [{**span, "start": span["start"] - start, "end": span["end"] - start} for span in spans],
        "segments": [],
    }
