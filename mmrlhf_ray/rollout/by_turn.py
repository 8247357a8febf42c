"""Episodes turn by turn: each turn of the policy as a response of its own to all that came before it."""

from typing import TypedDict

import pyarrow as pa

from mmrlhf_ray.data.batches.batching import media_kinds
from mmrlhf_ray.data.encoding.encode import Encoder, decode_response
from mmrlhf_ray.data.encoding.turns import observed_as, observed_text
from mmrlhf_ray.rewards.batch import Messages
from mmrlhf_ray.rollout.episode import RESPONSE, Segment, kinds_of
from mmrlhf_ray.schema import ROLLOUT, check, modality_of


class _Span(TypedDict):
    version: int
    start: int
    end: int


class _Rollout(TypedDict):
    """A row of ROLLOUT."""

    sample_id: str
    group_id: int
    prompt_id: str
    task: str
    modality: str
    policy_version: int
    versions: list[_Span]
    segments: list[Segment]
    prompt_token_ids: list[int]
    facts_token_ids: list[int]
    response_token_ids: list[int]
    response_mask: list[bool]
    rollout_logprobs: list[float]
    finish_reason: str
    media_ids: list[str]


def rows_by_turn(rollouts: pa.Table) -> tuple[pa.Table, list[int]]:
    """ROLLOUT with a row for each turn of the policy, its prompt being all before it; and the row of `rollouts`
    (ROLLOUT) that each is of, in order. No two of them share a group, since no two have one prompt."""
    rows: list[_Rollout] = []
    owners: list[int] = []
    episodes: list[_Rollout] = rollouts.to_pylist()
    for number, episode in enumerate(episodes):
        places = [place for place, segment in enumerate(episode["segments"]) if segment["kind"] == RESPONSE]
        turns = [_turn(episode, place) for place in places] if episode["segments"] else [episode]
        rows += turns
        owners += [number] * len(turns)
    for number, row in enumerate(rows):
        row["group_id"] = -1 - number
    return check(pa.Table.from_pylist(rows, schema=ROLLOUT), ROLLOUT, "rows_by_turn"), owners


def earlier_messages(encoder: Encoder, rollouts: pa.Table) -> list[Messages]:
    """Of each row of rows_by_turn(): what was said between the prompt and its turn, as chat messages."""
    observer, found = observed_as(encoder), list[Messages]()
    for row in rollouts.select(["response_token_ids", "segments"]).to_pylist():
        said: Messages = []
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


def _turn(episode: _Rollout, place: int) -> _Rollout:
    """The turn of an episode that is its segment number `place`."""
    turn, before = episode["segments"][place], episode["segments"][:place]
    start, end = turn["start"], turn["end"]
    seen = len(episode["media_ids"]) - len(kinds_of(episode["segments"])) + len(kinds_of(before))
    spans = [span for span in episode["versions"] if start <= span["start"] < end]
    return {
        **episode,
        "modality": modality_of(media_kinds(episode["modality"]) | {*kinds_of(before)}),
        "prompt_token_ids": [*episode["prompt_token_ids"], *episode["response_token_ids"][:start]],
        "media_ids": episode["media_ids"][:seen],
        "response_token_ids": episode["response_token_ids"][start:end],
        "response_mask": episode["response_mask"][start:end],
        "rollout_logprobs": episode["rollout_logprobs"][start:end],
        "versions": [{**span, "start": span["start"] - start, "end": span["end"] - start} for span in spans],
        "segments": [],
    }
