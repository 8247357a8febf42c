"""Responses of one or two policies to held-out prompts, with scores, KL and a media ablation."""

import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mmrlhf_ray.algorithms.statistics import mean_interval, win_tie_loss
from mmrlhf_ray.config import EvaluateConfig, ModelConfig
from mmrlhf_ray.config.learner import EngineConfig
from mmrlhf_ray.data.batches.batching import PassBudget
from mmrlhf_ray.data.encoding.encode import load_encoder
from mmrlhf_ray.data.records.readers import Records
from mmrlhf_ray.models import adapter_for
from mmrlhf_ray.pipelines.responses import SWAPPED, MediaFolder, prompts_of, response_table
from mmrlhf_ray.pipelines.run_dir import run_directory
from mmrlhf_ray.planning.preflight import check_cluster, preflight
from mmrlhf_ray.rewards.batch import Rows
from mmrlhf_ray.rewards.mixture import MixtureState, mix
from mmrlhf_ray.rewards.scores import ComponentScores
from mmrlhf_ray.rollout.batch import Rollouts, response_kl
from mmrlhf_ray.runtime.progress import Progress
from mmrlhf_ray.runtime.session import ray_session
from mmrlhf_ray.schema import PROMPT, RESPONSE
from mmrlhf_ray.workers.crew import (
    crew,
    start_encoders,
    start_functions,
    start_generators,
    start_references,
    start_scorers,
)
from mmrlhf_ray.workers.roles.answers import Pending
from mmrlhf_ray.workers.roles.functions import Rewards

logger = logging.getLogger(__name__)

RESPONSES_FILE = "responses.parquet"
SUMMARY_FILE = "evaluation.json"
_PROMPTS_PER_CALL = 128


def with_swapped_media(records: Records, seed: int) -> Records:
    """The prompts, and each prompt that shows media once more with those of another prompt of its task.

    A policy that answers these as well as its own does not look. Prompts whose task has no other media of the same
    kinds stay out.
    """
    rng = np.random.default_rng(seed)
    kind_of = dict(zip(*(records.media.column(c).to_pylist() for c in ("media_id", "kind")), strict=True))
    rows = records.records.to_pylist()
    alike: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        alike.setdefault((row["task"], *(kind_of[m] for m in row["media_ids"])), []).append(row)
    swapped, origins = [], list(range(len(rows)))
    for number, row in enumerate(rows):
        media = row["media_ids"]
        others = [o for o in alike[row["task"], *(kind_of[m] for m in media)] if not set(o["media_ids"]) & set(media)]
        if media and others:
            donor = others[int(rng.integers(len(others)))]
            swapped.append(row | {"prompt_id": row["prompt_id"] + SWAPPED, "media_ids": donor["media_ids"]})
            origins.append(number)
    table = pa.concat_tables([records.records, pa.Table.from_pylist(swapped, schema=PROMPT)])
    return records.derived(table, origins)


def run(cfg: EvaluateConfig) -> Path:
    """Write `responses.parquet` (RESPONSE) and `evaluation.json`; returns the run's directory. There is nothing to
    resume: an evaluation starts over. Raises as preflight(), and RunError for a missing score as `on_missing` says.
    """
    with preflight(cfg, run_directory(cfg)) as checked:
        records, run_dir = checked.records["data"], checked.run_dir
        if cfg.baseline is not None and cfg.kl_reference is None:
            logger.warning("no KL: with sampling.top_p below 1 or temperature 0 none follows from the responses")
        own = len(records.records)
        if cfg.ablate_media:
            records = with_swapped_media(records, cfg.seed)
        with ray_session(env=cfg.env) as session:
            check_cluster(cfg, session)
            answers = list(_answers(cfg, _policies(cfg), records, run_dir, own))
        table = pa.concat_tables([answer.responses for answer in answers])
        parts = {r.name: [v for answer in answers for v in answer.parts[r.name]] for r in cfg.components}
        pq.write_table(table, run_dir / RESPONSES_FILE)
        (run_dir / SUMMARY_FILE).write_text(json.dumps(summary(table, parts), indent=2))
    return run_dir


@dataclass(frozen=True)
class Judged:
    """Responses, and each component's numbers for them."""

    responses: pa.Table
    """RESPONSE."""
    parts: Mapping[str, Sequence[float | None]]
    """Component → its number for each response, None where there is none."""


def _policies(cfg: EvaluateConfig) -> dict[str, ModelConfig]:
    return {"policy": cfg.policy} | ({"baseline": cfg.baseline} if cfg.baseline else {})


def _budget(cfg: EvaluateConfig, models: Sequence[ModelConfig]) -> PassBudget:
    adapters = [adapter_for(Path(model.path)) for model in models]
    return PassBudget.of(EngineConfig(), adapters, cfg.score_micro_batch_tokens)


def _quantiles(cfg: EvaluateConfig) -> list[float | None]:
    return [reward.quantile for reward in cfg.model_rewards]


def _answers(
    cfg: EvaluateConfig, policies: dict[str, ModelConfig], records: Records, run_dir: Path, own_media: int
) -> Iterator[Judged]:
    """`own_media`: prompts that come first and show their own media."""
    seconds = cfg.deadlines.start_s
    with crew(cfg, cfg.roles) as own:
        prompts = start_encoders(own, cfg, records, run_dir).check(seconds)
        count = prompts.rows
        models = [reward.model for reward in cfg.model_rewards]
        scorers = start_scorers(own, cfg, models, _budget(cfg, models), _quantiles(cfg)) if models else None
        functions = start_functions(own, cfg, records.records) if cfg.function_rewards else None
        if functions:
            functions.wait_ready(seconds)
        rewards = Rewards(scorers, cfg.model_rewards, functions, cfg.environment_rewards)
        references = None
        if cfg.kl_reference:
            budget = _budget(cfg, [cfg.kl_reference])
            references = start_references(own, cfg, cfg.kl_reference, cfg.sampling.temperature, budget)
        written = _Written(cfg, run_dir)
        for label, model in policies.items():
            generators = start_generators(own, cfg, model)
            generators.wait_ready(seconds)
            with Progress(f"answers of {label}", count, "prompt") as progress:
                for first in range(0, count, _PROMPTS_PER_CALL):
                    last = min(first + _PROMPTS_PER_CALL, count)
                    rollouts = generators.generate(prompts.slice(first, last), cfg.n_samples_per_prompt)
                    referring = references.ask(rollouts) if references else None
                    scores, parts = _scored(cfg, rewards, rollouts, progress)
                    yield written.judged(label, rollouts, scores, parts, referring)
                    if cfg.best_of and label == list(policies)[-1] and first < own_media:
                        rollouts = generators.generate(prompts.slice(first, min(last, own_media)), max(cfg.best_of))
                        yield from _best(cfg, rollouts, *_scored(cfg, rewards, rollouts, progress), written)
                    progress.update(last, last - first)
            own.end(generators.group)  # their seats are for the next policy


def _scored(
    cfg: EvaluateConfig, rewards: Rewards, rollouts: Rollouts, progress: Progress
) -> tuple[Sequence[float], Mapping[str, ComponentScores]]:
    """Each row's score, NaN where there is none, and each component's numbers."""
    computed, _ = rewards.ask(rollouts).result()
    mixed = mix(cfg.components, computed, Rows.of(rollouts.table), MixtureState.start(cfg.components))
    for warning in mixed.warnings:
        progress.note(warning)
    return mixed.scores if cfg.components else [math.nan] * len(rollouts.table), computed


def _best(
    cfg: EvaluateConfig,
    rollouts: Rollouts,
    scores: Sequence[float],
    parts: Mapping[str, ComponentScores],
    written: "_Written",
) -> Iterator[Judged]:
    """Of each number in `best_of`, the response to each prompt that scores highest among its first so many."""
    for number in cfg.best_of:
        rows = best_rows(rollouts.table.column("group_id").to_pylist(), scores, number)
        own = {name: numbers.select(rows) for name, numbers in parts.items()}
        yield written.judged(f"best of {number}", rollouts.select(rows), [scores[row] for row in rows], own, None)


def best_rows(groups: Sequence[int], scores: Sequence[float], number: int) -> list[int]:
    """Row of the highest score among the first `number` rows of each group; rows without a score lose to all others."""
    rows: dict[int, list[int]] = {}
    for row, group in enumerate(groups):
        rows.setdefault(group, []).append(row)
    return [max(own[:number], key=lambda i: -math.inf if math.isnan(scores[i]) else scores[i]) for own in rows.values()]


class _Written:
    """Responses as text, and what their prompts show as files."""

    def __init__(self, cfg: EvaluateConfig, run_dir: Path) -> None:
        self._encoder = load_encoder(cfg.policy.path, allowed=cfg.sampling.allow_tokens)
        self._media = MediaFolder(run_dir, cfg.media_kept_mb << 20)
        self._seconds = cfg.deadlines.stage_s

    def judged(
        self,
        label: str,
        rollouts: Rollouts,
        scores: Sequence[float],
        parts: Mapping[str, ComponentScores],
        referring: Pending | None,
    ) -> Judged:
        """RESPONSE with scores and KL, NaN where there is none."""
        table = rollouts.table
        kl = [math.nan] * len(table)
        if referring:
            kl = response_kl(table, referring.result()[0]).tolist()
        version, prompts = table.column("policy_version")[0].as_py(), prompts_of(rollouts, self._seconds)
        self._media.add(table, rollouts.media, self._seconds)
        responses = response_table(self._encoder, table, prompts, label, version, scores, kl, parts)
        return Judged(responses, {name: numbers.values for name, numbers in parts.items()})


def summary(responses: pa.Table, parts: Mapping[str, Sequence[float | None]] | None = None) -> dict[str, Any]:
    """Per policy and media: mean score with its 95 % interval, of all and of the worst task and modality, KL, length;
    and win/tie/loss by score, of responses that
    both have a score. `parts`: component of the score → its number for each row, None where there is none; several
    components are summed up one by one as well."""
    out: dict[str, Any] = {}
    scores: dict[str, list[float]] = {}
    for policy in pc.unique(responses.column("policy")).to_pylist():
        for media in ("own", "swapped"):
            chosen = pc.and_(pc.equal(responses["policy"], policy), pc.equal(responses["media"], media))
            rows = responses.filter(chosen)
            if not len(rows):
                continue
            values, kl = rows.column("score").to_pylist(), float(np.mean(rows.column("kl").to_pylist()))
            entry: dict[str, Any] = {
                "responses": len(rows),
                "response_tokens": float(np.mean(rows.column("response_tokens").to_pylist())),
            }
            if not math.isnan(kl):
                entry["kl"] = kl
            there = [value for value in values if not math.isnan(value)]
            if there:
                entry["score"] = asdict(mean_interval(there))
                entry |= {f"worst_{what}": _worst(rows, what) for what in ("task", "modality")}
                if len(there) < len(values):
                    entry["without_score"] = len(values) - len(there)
                if media == "own":
                    scores[policy] = values
            if parts and len(parts) > 1:
                entry["rewards"] = _by_component(parts, chosen.to_pylist())
            out[f"{policy}, {media} media"] = entry
    if {"policy", "baseline"} <= scores.keys():
        pairs = [
            pair for pair in zip(scores["policy"], scores["baseline"], strict=True) if not any(map(math.isnan, pair))
        ]
        if pairs:
            own, other = zip(*pairs, strict=True)
            out["policy against baseline, by score"] = asdict(win_tie_loss(own, other))
    return out


def _worst(rows: pa.Table, what: str) -> dict[str, Any]:
    """Of the column `what`, the value whose responses have the lowest mean score, with its interval."""
    scores: dict[str, list[float]] = {}
    for value, score in zip(rows.column(what).to_pylist(), rows.column("score").to_pylist(), strict=True):
        if not math.isnan(score):
            scores.setdefault(value, []).append(score)
    worst = min(sorted(scores), key=lambda value: float(np.mean(scores[value])))
    return {what: worst, "responses": len(scores[worst]), "score": asdict(mean_interval(scores[worst]))}


def _by_component(parts: Mapping[str, Sequence[float | None]], chosen: Sequence[bool]) -> dict[str, Any]:
    """Mean of each component, as its numbers came, over the chosen rows that have one."""
    found = {}
    for name, numbers in parts.items():
        own = [n for n, wanted in zip(numbers, chosen, strict=True) if wanted and n is not None and math.isfinite(n)]
        if own:
            found[name] = asdict(mean_interval(own))
    return found


def read_responses(run_dir: Path, policy: str, media: str = "own") -> pa.Table:
    """Rows of an evaluation's `responses.parquet`."""
    table = pq.read_table(run_dir / RESPONSES_FILE, schema=RESPONSE)
    return table.filter(pc.and_(pc.equal(table["policy"], policy), pc.equal(table["media"], media)))
