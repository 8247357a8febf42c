"""From DEMONSTRATION records to rows that rewards can score: honest responses, and those that try to fool."""

import json
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
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
from mmrlhf_ray.rewards.adversary import Adversary, Fooling, Honest
from mmrlhf_ray.schema import PROMPT, ROLLOUT, check

HONEST = "honest"


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
    media: pa.Table
    """MEDIA of all that they show, perhaps of more."""

    def comparable(self) -> "ProbeRows":
        """Those whose prompt, media included, has another response: what a judge that compares can say something of."""
        names = self.rollouts.column("prompt_id").to_pylist()
        counts = Counter(names)
        kept = [row for row, name in enumerate(names) if counts[name] > 1]
        of_rows = ((column[row] for row in kept) for column in (self.probes, self.prompt_ids, self.texts))
        probes, prompt_ids, texts = map(tuple, of_rows)
        return replace(self, rollouts=self.rollouts.take(kept), probes=probes, prompt_ids=prompt_ids, texts=texts)


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


def adversary(cfg: ProbeRewardConfig, chosen: Records, honest: Sequence[Mapping[str, Any]]) -> Adversary:
    """Makes the probes. `chosen`: whose media hold those of all honest records."""
    kinds = dict(zip(*(chosen.media.column(name).to_pylist() for name in ("media_id", "kind")), strict=True))
    own = [Honest(row, row["response"]) for row in honest]
    return Adversary(own, kinds, cfg.max_response_tokens, cfg.seed, facts_column=cfg.data.facts_column)


def build_rows(
    cfg: ProbeRewardConfig, encoder: Encoder, chosen: Records, honest: Sequence[Mapping[str, Any]]
) -> tuple[ProbeRows, list[Unusable]]:
    """The chosen records with every probe that applies, and those that cannot be encoded.

    honest: all honest records; their responses and media serve the probes of others.
    """
    clips = {r["media_id"]: RawMedia.of(r) for r in chosen.media.to_pylist()}
    writer = _Writer(cfg, encoder, clips, adversary(cfg, chosen, honest))
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
        media=chosen.media,
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
    adversary: Adversary

    def rows(self, group_id: int, record: Mapping[str, Any]) -> list[_Row]:
        """The record's answers are one group. Raises ValueError for a record that cannot be encoded."""
        answer = encode_response(self.encoder, record["response"], self.cfg.max_response_tokens)
        own = _Asked({name: record[name] for name in PROMPT.names}, self._facts(record))
        made = self.adversary.responses(group_id, Honest(record, record["response"]))
        texts = {f.probe: self._cut(f.response, answer[-1:]) for f in made if not f.of_media}
        others = {probe: ids for probe, ids in texts.items() if ids != answer}
        rows = self._answered(group_id, record, own, {HONEST: answer} | others)
        for fooling in (f for f in made if f.of_media):
            rows += self._answered(group_id, record, self._shown(record, fooling), {fooling.probe: answer})
        return rows

    def _cut(self, text: str, end: list[int]) -> list[int]:
        """Token ids, cut at the limit with the token that ends a response kept."""
        return encode_response(self.encoder, text)[:-1][: self.cfg.max_response_tokens - 1] + end

    def _shown(self, record: Mapping[str, Any], fooling: Fooling) -> _Asked:
        """Facts are those of the media. Modality and extras stay, so that the same rewards are asked the same; the id
        is another one, as reward functions look prompts up by it."""
        changed = {"prompt_id": f"{record['prompt_id']}#{fooling.probe}"}
        changed |= {name: record[name] for name in ("modality", "extras")}
        return _Asked(fooling.prompt | changed, self._facts(fooling.prompt))

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
            "segments": [],
            "prompt_token_ids": encoded.token_ids,
            "facts_token_ids": encode_facts(self.encoder, asked.facts),
            "finish_reason": "stop",
        }
        return [
            _Row(probe, record["prompt_id"], prompt, shared | _response(record, probe, ids), encoded.features)
            for probe, ids in answers.items()
        ]


def _response(record: Mapping[str, Any], probe: str, ids: list[int]) -> dict[str, Any]:
    return {
        "sample_id": f"{record['prompt_id']}#{probe}",
        "response_token_ids": ids,
        "response_mask": [True] * len(ids),
        "rollout_logprobs": [0.0] * len(ids),  # nobody sampled them, and no reward reads these
    }
