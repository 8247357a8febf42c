"""Judges on the held-out pairs that a reward model was measured on."""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from statistics import fmean
from typing import Any

import numpy as np
import pyarrow as pa

from mmrlhf_ray.algorithms.calibration import pair_calibration
from mmrlhf_ray.algorithms.score_fit import temperature
from mmrlhf_ray.config import JudgeReward, RewardModelConfig
from mmrlhf_ray.data.records.readers import Records
from mmrlhf_ray.data.records.store import LoadedRow
from mmrlhf_ray.pipelines.supervised.reward_report import JudgeAgreement, Scaled, agreement, pairs_of
from mmrlhf_ray.pipelines.supervised.score_fit import FEWEST, first_half
from mmrlhf_ray.rewards.batch import RewardBatch
from mmrlhf_ray.rewards.components import component, score_own
from mmrlhf_ray.rewards.mixture import routed
from mmrlhf_ray.rewards.scores import ComponentScores
from mmrlhf_ray.runtime.progress import Progress
from mmrlhf_ray.schema import EVAL_SCORE

_RESPONSES_PER_CALL = 64


def judge_agreements(cfg: RewardModelConfig, held_out: Records, scores: pa.Table) -> dict[str, JudgeAgreement]:
    """How often each of `judges` prefers what people prefer. scores: EVAL_SCORE of `held_out`, perhaps of a part of it.

    A pair that a judge gave no score of is counted as unanswered, whatever the judge's `on_missing`; one that is not
    among its tasks and modalities is left out.
    """
    ranked = [row for row in scores.to_pylist() if row["rank"]]
    batches = list(_batches(ranked, held_out))
    found = {}
    with Progress("judging", len(ranked) * len(cfg.judges), "response") as progress:
        for number, judge in enumerate(cfg.judges):
            parts, own = [], component(judge)
            own.start()
            for batch in batches:
                parts.append(score_own(judge, own, batch))
                progress.update(number * len(ranked) + sum(len(p.values) for p in parts), len(batch))
            own.close()
            found[judge.name] = _agreement(judge, ranked, batches, ComponentScores.concat(parts or [_NOTHING]))
    return found


_NOTHING = ComponentScores((), ())


def _agreement(
    judge: JudgeReward, ranked: Sequence[Mapping[str, Any]], batches: Sequence[RewardBatch], said: ComponentScores
) -> JudgeAgreement:
    own = [first + row for first, batch in _starts(batches) for row in routed(judge, batch.rows)]
    asked = [ranked[row] for row in own]
    numbers = {row: value for row in own if (value := said.values[row]) is not None}
    answered = [{**ranked[row], "score": value, "members": [value]} for row, value in numbers.items()]
    given = pa.Table.from_pylist(answered, schema=EVAL_SCORE)
    pairs = pairs_of(given)
    changes = [change for change in said.side_changes if change is not None]
    return JudgeAgreement(
        agreement(pairs, log_odds=False) if pairs else None,
        len(pairs_of(pa.Table.from_pylist(asked, schema=EVAL_SCORE))) - len(pairs),
        fmean(changes) if changes else None,
        scaled(given),
    )


def scaled(scores: pa.Table) -> Scaled | None:
    """A judge's scores as log odds; None where a half of the prompts has fewer than 20 pairs. scores: EVAL_SCORE of
    what it answered.

    Source: Platt 1999, "Probabilistic Outputs for Support Vector Machines", with the offset left out.
    """
    first = first_half(scores)
    halves = [pairs_of(scores.filter(pa.array(own, pa.bool_()))) for own in (first, [not f for f in first])]
    one, other = (np.array([pair.difference for pair in pairs], np.float64) for pairs in halves)
    if min(len(one), len(other)) < FEWEST:
        return None
    factors = 1.0 / temperature(one), 1.0 / temperature(other)
    return Scaled(factors, pair_calibration(np.concatenate([factors[1] * one, factors[0] * other])))


def _starts(batches: Sequence[RewardBatch]) -> Iterator[tuple[int, RewardBatch]]:
    first = 0
    for batch in batches:
        yield first, batch
        first += len(batch)


def _batches(ranked: Sequence[Mapping[str, Any]], held_out: Records) -> Iterator[RewardBatch]:
    """The responses, those to one prompt together. ranked: rows of EVAL_SCORE, a record's one after the other."""
    loaded, part = held_out.loaded(), list[Mapping[str, Any]]()
    for _, own in groupby(ranked, key=lambda row: row["row"]):
        part += own
        if len(part) >= _RESPONSES_PER_CALL:
            yield _batch(part, loaded)
            part = []
    if part:
        yield _batch(part, loaded)


def _batch(rows: Sequence[Mapping[str, Any]], loaded: Sequence[LoadedRow]) -> RewardBatch:
    records = [loaded[row["row"]].record for row in rows]
    extras = [json.loads(record["extras"]) for record in records]
    columns = {name: [own.get(name) for own in extras] for name in sorted(set().union(*extras))}
    return RewardBatch(
        sample_ids=tuple(f"{row['prompt_id']}#{row['response']}" for row in rows),
        prompts=tuple(json.loads(record["messages"]) for record in records),
        completions=tuple(_text(record, row["response"]) for record, row in zip(records, rows, strict=True)),
        tasks=tuple(row["task"] for row in rows),
        modalities=tuple(row["modality"] for row in rows),
        columns=columns | {name: [row[name] for row in rows] for name in ("prompt_id", "task", "modality")},
        media=tuple(loaded[row["row"]].media for row in rows),
        groups=tuple(row["row"] for row in rows),
    )


def _text(record: Mapping[str, Any], response: int) -> str:
    texts = (record["chosen"], record["rejected"]) if "chosen" in record else record["responses"]
    return str(texts[response])
