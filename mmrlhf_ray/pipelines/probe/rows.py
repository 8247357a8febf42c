"""From DEMONSTRATION records to rows that rewards can score: honest responses, and those that try to fool."""

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from mmrlhf_ray.config import ProbeRewardConfig
from mmrlhf_ray.data.encoding.encode import (
    Encoder,
    Features,
    RawMedia,
    decode_response,
    encode_facts,
    encode_prompt,
    encode_response,
    facts_of,
)
from mmrlhf_ray.data.records.readers import Records
from mmrlhf_ray.errors import DataError
from mmrlhf_ray.rewards.probe import adversarial_responses, question_text, without_media
from mmrlhf_ray.schema import PROMPT, ROLLOUT, check

HONEST = "honest"
MEDIA_REMOVED = "media_removed"
MEDIA_SWAPPED = "media_swapped"


@dataclass(frozen=True)
class Unusable:
    """Why a record cannot be probed."""

    number: int
    """In the records that were chosen."""
    reason: str


@dataclass(frozen=True)
class ProbeRows:
    """Everything that is scored. Rows of one prompt follow one another, the honest one first."""

    rollouts: pa.Table
    """ROLLOUT."""
    probes: tuple[str, ...]
    """Of each row: HONEST or the probe."""
    prompt_ids: tuple[str, ...]
    """Of each row, as in the records; in `rollouts` a prompt with other media has an id of its own."""
    texts: tuple[str, ...]
    """Of each row: the response as reward functions see it."""
    prompts: pa.Table
    """PROMPT: those of the records and those with other media."""
    features: dict[str, Features]
    """media_id → the processor's tensors."""


def choose(records: Records, where: Mapping[str, str], count: int, seed: int) -> tuple[Records, list[dict[str, Any]]]:
    """`count` records (fewer where there are fewer), spread over tasks and modalities; and all that are honest.

    One record of each prompt, in an order that `seed` decides. Raises DataError where no record is left.
    """
    rows = records.records.to_pylist()
    usable = [i for i, row in enumerate(rows) if row["feedback"] >= 0 and _fulfils(json.loads(row["extras"]), where)]
    if not usable:
        raise DataError(
            f"{records.file}: none of {len(rows)} records has feedback of at least 0"
            + (f" and extras with {dict(where)}; correct `where`" if where else "; give demonstrations")
        )
    order = [usable[i] for i in np.random.default_rng(seed).permutation(len(usable))]
    one_each = list({rows[i]["prompt_id"]: i for i in order}.values())
    groups = [(rows[i]["task"], rows[i]["modality"]) for i in one_each]
    chosen = [one_each[position] for position in spread(groups, count)]
    return records.derived(records.records.take(chosen), chosen), [rows[i] for i in one_each]


def _fulfils(extras: Mapping[str, Any], where: Mapping[str, str]) -> bool:
    return all(extras.get(key) == value for key, value in where.items())


def spread(groups: Sequence[Hashable], count: int) -> list[int]:
    """Positions of `count` items, one of each group in turn as long as it has any; of a group the first ones."""
    turn: dict[Hashable, int] = {}
    rounds = []
    for position, group in enumerate(groups):
        turn[group] = turn.get(group, -1) + 1
        rounds.append((turn[group], position))
    return sorted(position for _, position in sorted(rounds)[:count])


def build_rows(
    cfg: ProbeRewardConfig, encoder: Encoder, chosen: Records, honest: Sequence[Mapping[str, Any]]
) -> tuple[ProbeRows, list[Unusable]]:
    """The chosen records with every probe that applies, and those that cannot be encoded.

    honest: all honest records; their responses and media serve the probes of others.
    """
    clips = {r["media_id"]: RawMedia.of(r) for r in chosen.media.to_pylist()}
    writer = _Writer(cfg, encoder, clips, honest, np.random.default_rng(cfg.seed))
    rows: list[_Row] = []
    unusable = []
    for number, record in enumerate(chosen.records.to_pylist()):
        try:
            rows += writer.rows(number, record)
        except ValueError as error:
            unusable.append(Unusable(number, str(error)))
    table = pa.Table.from_pylist([row.rollout for row in rows], schema=ROLLOUT)
    prompts = {row.prompt["prompt_id"]: row.prompt for row in rows}
    built = ProbeRows(
        rollouts=check(table, ROLLOUT, "build_rows"),
        probes=tuple(row.probe for row in rows),
        prompt_ids=tuple(row.prompt_id for row in rows),
        texts=tuple(decode_response(encoder, row.rollout["response_token_ids"]) for row in rows),
        prompts=pa.Table.from_pylist(list(prompts.values()), schema=PROMPT),
        features={media_id: parts for row in rows for media_id, parts in row.features.items()},
    )
    return built, unusable


@dataclass(frozen=True)
class _Asked:
    """A record's prompt, possibly with other media than its own."""

    prompt: dict[str, Any]
    """Columns of PROMPT."""
    facts: str


@dataclass(frozen=True)
class _Row:
    probe: str
    prompt_id: str
    prompt: dict[str, Any]
    rollout: dict[str, Any]
    features: dict[str, Features]


@dataclass(frozen=True)
class _Writer:
    cfg: ProbeRewardConfig
    encoder: Encoder
    clips: Mapping[str, RawMedia]
    honest: Sequence[Mapping[str, Any]]
    rng: np.random.Generator

    def rows(self, group_id: int, record: Mapping[str, Any]) -> list[_Row]:
        """The record's answers are one group. Raises ValueError for a record that cannot be encoded."""
        answer = encode_response(self.encoder, record["response"], self.cfg.max_response_tokens)
        own = _Asked({name: record[name] for name in PROMPT.names}, self._facts(record))
        rows = self._answered(group_id, record, own, {HONEST: answer} | self._adversarial(record, answer))
        for probe, asked in (
            (MEDIA_REMOVED, self._media_removed(record)),
            (MEDIA_SWAPPED, self._media_swapped(record)),
        ):
            rows += self._answered(group_id, record, asked, {probe: answer}) if asked else []
        return rows

    def _adversarial(self, record: Mapping[str, Any], honest: list[int]) -> dict[str, list[int]]:
        """Probe → token ids, cut at the limit with the token that ends a response kept."""
        most, end = self.cfg.max_response_tokens, honest[-1:]
        answers = [other["response"] for other in self.honest if other["task"] == record["task"]]
        question = question_text(json.loads(record["messages"]))
        made = adversarial_responses(record["response"], question, answers, most)
        ids = {probe: encode_response(self.encoder, text)[:-1][: most - 1] + end for probe, text in made.items()}
        return {probe: own for probe, own in ids.items() if own != honest}

    def _media_removed(self, record: Mapping[str, Any]) -> _Asked | None:
        """Facts go with the media that they describe. The modality stays, so that the same rewards are asked."""
        bare = without_media(json.loads(record["messages"]))
        if not record["media_ids"] or bare is None:
            return None
        changed = {"messages": json.dumps(bare, ensure_ascii=False), "media_ids": []}
        return _Asked(_renamed(record, MEDIA_REMOVED) | changed, "")

    def _media_swapped(self, record: Mapping[str, Any]) -> _Asked | None:
        """With media and facts of a prompt of the same task and kinds, to which another response is honest."""
        kinds, own = self._kinds(record), set(record["media_ids"])
        donors = [
            other
            for other in self.honest
            if (other["task"], self._kinds(other)) == (record["task"], kinds)
            and other["response"] != record["response"]
            and not own & set(other["media_ids"])
        ]
        if not own or not donors:
            return None
        donor = donors[int(self.rng.integers(len(donors)))]
        return _Asked(_renamed(record, MEDIA_SWAPPED) | {"media_ids": donor["media_ids"]}, self._facts(donor))

    def _kinds(self, record: Mapping[str, Any]) -> list[str]:
        return [self.clips[media_id].kind for media_id in record["media_ids"]]

    def _facts(self, record: Mapping[str, Any]) -> str:
        return facts_of(record["extras"], self.cfg.data.facts_column)

    def _answered(
        self, group_id: int, record: Mapping[str, Any], asked: _Asked, answers: Mapping[str, list[int]]
    ) -> list[_Row]:
        prompt, media_ids = asked.prompt, asked.prompt["media_ids"]
        encoded = encode_prompt(self.encoder, prompt["messages"], [self.clips[m] for m in media_ids])
        if len(encoded.token_ids) > self.cfg.data.most_prompt_tokens:
            raise ValueError(
                f"prompt has {len(encoded.token_ids)} tokens (media included), more than "
                f"data.max_prompt_tokens={self.cfg.data.most_prompt_tokens}"
            )
        shared = {name: prompt[name] for name in ("prompt_id", "task", "modality", "media_ids")} | {
            "group_id": group_id,
            "policy_version": 0,
            "versions": [],
            "prompt_token_ids": encoded.token_ids,
            "facts_token_ids": encode_facts(self.encoder, asked.facts),
            "finish_reason": "stop",
        }
        return [
            _Row(probe, record["prompt_id"], prompt, shared | _response(record, probe, ids), encoded.features)
            for probe, ids in answers.items()
        ]


def _renamed(record: Mapping[str, Any], probe: str) -> dict[str, Any]:
    """The record's prompt under an id of its own, as reward functions look prompts up by id."""
    return {name: record[name] for name in PROMPT.names} | {"prompt_id": f"{record['prompt_id']}#{probe}"}


def _response(record: Mapping[str, Any], probe: str, ids: list[int]) -> dict[str, Any]:
    return {
        "sample_id": f"{record['prompt_id']}#{probe}",
        "response_token_ids": ids,
        "response_mask": [True] * len(ids),
        "rollout_logprobs": [0.0] * len(ids),  # nobody sampled them, and no reward reads these
    }
