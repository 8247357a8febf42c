"""Responses for people to look at: token-level rollouts as text, with their prompts, and what these show as files."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmrlhf_ray.data.encoding.encode import Encoder, decode_response, token_texts
from mmrlhf_ray.data.encoding.turns import observed_text
from mmrlhf_ray.disk import writing
from mmrlhf_ray.reports.media import kept_media, media_path
from mmrlhf_ray.rewards.scores import ComponentScores
from mmrlhf_ray.rollout.batch import Clips, Rollouts, shown
from mmrlhf_ray.rollout.episode import OBSERVATION, answer_of, kinds_of
from mmrlhf_ray.runtime.waits import deadline_get
from mmrlhf_ray.schema import MEDIA, PROMPT, RESPONSE, check

SWAPPED = "#swapped"
"""Suffix of the prompt_id under which a prompt is asked with another prompt's media."""
ROLLOUTS_DIR = "rollouts"
"""In a run's directory: RESPONSE of each online step."""
_COPIED = ("task", "modality", "finish_reason", "sample_id", "group_id")
_PER_TOKEN = ("response_token_ids", "response_mask", "rollout_logprobs", "old_logprobs", "ref_logprobs", "advantages")
_OF_EPISODE = ("segments", "media_ids")


def response_table(
    encoder: Encoder,
    table: pa.Table,
    prompts: pa.Table,
    policy: str,
    step: int,
    scores: Sequence[float],
    kl: Sequence[float],
    components: Mapping[str, ComponentScores] | None = None,
) -> pa.Table:
    """RESPONSE rows of a ROLLOUT table, or of an EXPERIENCE table, whose tokens are kept.

    prompts: PROMPT, what was answered among them. scores, kl and components have a number for each row, NaN or None
    where there is none. Raises KeyError for a prompt that is not among `prompts`.
    """
    asked = dict(zip(prompts.column("prompt_id").to_pylist(), range(len(prompts)), strict=True))
    asks = prompts.select(["messages", "extras"])
    with_tokens = "advantages" in table.column_names
    names = ("prompt_id", *_COPIED, *(_PER_TOKEN if with_tokens else _PER_TOKEN[:2]), *_OF_EPISODE, "versions")
    responses = []
    for number, row in enumerate(table.select(list(names)).to_pylist()):
        prompt_id = row["prompt_id"].removesuffix(SWAPPED)
        given = {name: numbers.values[number] for name, numbers in (components or {}).items()}
        responses.append(
            {
                **{name: row[name] for name in _COPIED},
                **{name: column[asked[row["prompt_id"]]].as_py() for name, column in _columns(asks)},
                **(_tokens(encoder, row) if with_tokens else _NO_TOKENS),
                "step": step,
                "policy": policy,
                "media": "own" if prompt_id == row["prompt_id"] else "swapped",
                "prompt_id": prompt_id,
                "text": decode_response(encoder, answer_of(row["response_token_ids"], row["segments"])),
                "turns": json.dumps(_turns(encoder, row)),
                "media_ids": row["media_ids"][: len(row["media_ids"]) - len(kinds_of(row["segments"]))],
                "response_tokens": sum(row["response_mask"]),
                "score": scores[number],
                "kl": kl[number],
                "components": json.dumps({name: _finite(value) for name, value in given.items()}),
            }
        )
    return check(pa.Table.from_pylist(responses, schema=RESPONSE), RESPONSE, "response_table")


_NO_TOKENS: Mapping[str, Any] = {
    **{name: [] for name in (*_PER_TOKEN, "tokens", "ratios", "versions")},
    "advantage": math.nan,
}


def _turns(encoder: Encoder, row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """An episode's segments, in the form of the column `turns`."""
    shown_later = row["media_ids"][len(row["media_ids"]) - len(kinds_of(row["segments"])) :]
    turns = []
    for segment in row["segments"]:
        clips, shown_later = shown_later[: len(segment["shows"])], shown_later[len(segment["shows"]) :]
        read = observed_text if segment["kind"] == OBSERVATION else decode_response
        text = read(encoder, row["response_token_ids"][segment["start"] : segment["end"]])
        turns.append({**segment, "reward": _finite(segment["reward"]), "text": text, "media_ids": clips})
    return turns


def _columns(table: pa.Table) -> Iterator[tuple[str, pa.ChunkedArray]]:
    return zip(table.column_names, table.columns, strict=True)


def _tokens(encoder: Encoder, row: Mapping[str, Any]) -> dict[str, Any]:
    """Per token of an EXPERIENCE row, and the mean advantage of those that are trained on."""
    sampled, old = (np.array(row[name], np.float32) for name in ("rollout_logprobs", "old_logprobs"))
    mask = np.array(row["response_mask"], bool)
    trained = np.array(row["advantages"], np.float32)[mask]
    return {
        **{name: row[name] for name in _PER_TOKEN},
        "tokens": token_texts(encoder, row["response_token_ids"]),
        "ratios": np.exp(np.where(mask, old - sampled, math.nan)),
        "versions": row["versions"],
        "advantage": float(trained.mean()) if len(trained) else math.nan,
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def prompts_of(rollouts: Rollouts, seconds: float) -> pa.Table:
    """PROMPT of the rollouts, perhaps with others. Raises as deadline_get()."""
    parts = deadline_get(list(rollouts.prompts), seconds, "reading prompts")
    return pa.concat_tables([PROMPT.empty_table(), *parts])


def whole_groups(table: pa.Table, most: int) -> int:
    """How many rows the first groups have: as many groups as fit into `most` rows, at least one, none where it is 0.

    table: a column `group_id`, the rows of a group one after the other.
    """
    if most == 0 or not len(table):
        return 0
    groups = table.column("group_id").to_numpy()
    ends = [*(np.flatnonzero(np.diff(groups)) + 1).tolist(), len(groups)]
    return int(max((end for end in ends if end <= most), default=ends[0]))


@dataclass
class MediaFolder:
    """Writes what kept responses show, each clip once."""

    run_dir: Path
    most_bytes: int
    """Of all files together; what would go beyond is left out."""
    _sizes: dict[str, int] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._sizes = kept_media(self.run_dir)

    def add(self, rollouts: pa.Table, media: Clips, seconds: float) -> None:
        """Write what rows of a ROLLOUT or EXPERIENCE table show. media: of all that they show. Raises as deadline_get()
        and write()."""
        lacking = self.lacking(rollouts)
        tables = list(dict.fromkeys(media[name] for name in lacking))
        read = pa.concat_tables([MEDIA.empty_table(), *deadline_get(tables, seconds, "reading media")])
        self.write(read.filter(pc.is_in(read.column("media_id"), pa.array(lacking, pa.string()))))

    def lacking(self, rollouts: pa.Table) -> list[str]:
        """What these rows show and is not there, as long as there is room."""
        full = sum(self._sizes.values()) >= self.most_bytes
        return [] if full else [name for name in shown(rollouts) if name not in self._sizes]

    def write(self, clips: pa.Table) -> None:
        """Write the clips of a MEDIA table. Raises RunFailed on a full disk."""
        for row in clips.to_pylist():
            if sum(self._sizes.values()) + len(row["data"]) > self.most_bytes:
                continue
            path = media_path(self.run_dir, row["media_id"], row["mime"])
            fresh = path.with_name(f".{path.name}.partial")
            with writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                fresh.write_bytes(row["data"])
                fresh.replace(path)
            self._sizes[row["media_id"]] = len(row["data"])
