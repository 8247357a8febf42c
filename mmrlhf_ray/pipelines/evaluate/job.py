"""Responses of one or two policies to held-out prompts, with scores, KL and a media ablation."""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray

from mmrlhf_ray.algorithms.statistics import mean_interval, win_tie_loss
from mmrlhf_ray.config import EvaluateConfig, ModelConfig
from mmrlhf_ray.data.batches.batching import PassBudget
from mmrlhf_ray.data.encoding.encode import Encoder, load_encoder
from mmrlhf_ray.data.records.readers import Records, read_records
from mmrlhf_ray.models import check_same_tokens
from mmrlhf_ray.pipelines.responses import SWAPPED, response_table
from mmrlhf_ray.pipelines.run_dir import check_models, check_reward_model, run_directory
from mmrlhf_ray.planning.placement import check_fits
from mmrlhf_ray.planning.preflight import refuse_streaming
from mmrlhf_ray.runtime.actors import Seat, reserve
from mmrlhf_ray.runtime.progress import Progress
from mmrlhf_ray.runtime.session import ray_session
from mmrlhf_ray.schema import PROMPT, RESPONSE
from mmrlhf_ray.workers.crew import Reserved, absolute, device_of, generator_arguments, seats, start_encoder
from mmrlhf_ray.workers.fleet import Generators, Rollouts, Servers
from mmrlhf_ray.workers.roles.generator import Generator
from mmrlhf_ray.workers.roles.servers import Reference, Scorer

RESPONSES_FILE = "responses.parquet"
SUMMARY_FILE = "evaluation.json"
_PROMPTS_PER_CALL = 128


@dataclass(frozen=True)
class _Judges:
    """Who looks at the responses; None where nobody was asked to."""

    scorers: Servers | None
    reference: Servers | None


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


def run(cfg: EvaluateConfig, resume: bool = False) -> Path:
    """Write `responses.parquet` (RESPONSE) and `evaluation.json`; returns the run's directory. There is nothing to
    resume: an evaluation starts over. Raises as pipelines.ppo.run().
    """
    refuse_streaming(cfg.data, "an evaluation")
    policies = {"policy": cfg.policy} | ({"baseline": cfg.baseline} if cfg.baseline else {})
    check_models(*(model.path for model in policies.values()), *([cfg.reference.path] if cfg.reference else []))
    if cfg.reward_model:
        check_reward_model(cfg.reward_model.path)
        check_same_tokens(cfg.policy.path, cfg.reward_model.path)
    with run_directory(cfg) as run_dir:
        records = read_records(cfg.data, PROMPT, run_dir)
        if cfg.ablate_media:
            records = with_swapped_media(records, cfg.seed)
        with ray_session() as session:
            check_fits(cfg, session.resources.get("CPU", 0.0), session.resources.get("GPU", 0.0))
            table = pa.concat_tables(_answers(cfg, policies, records, run_dir))
        pq.write_table(table, run_dir / RESPONSES_FILE)
        (run_dir / SUMMARY_FILE).write_text(json.dumps(summary(table), indent=2))
    return run_dir


def _answers(
    cfg: EvaluateConfig, policies: dict[str, ModelConfig], records: Records, run_dir: Path
) -> Iterator[pa.Table]:
    place, deadline = cfg.placement, cfg.deadlines
    everyone = [Seat("encoder-0", place.encoder), *seats("generator", place.generator)]
    everyone += seats("scorer", place.scorer) if cfg.reward_model else []
    everyone += seats("reference", place.reference) if cfg.kl_reference else []
    reserved = Reserved(reserve(everyone, place.strategy, deadline), tuple(everyone))
    prompts, count = start_encoder(cfg, reserved, records, run_dir)
    judges = _judges(cfg, reserved)
    text = load_encoder(cfg.policy.path)
    for label, model in policies.items():
        arguments = generator_arguments(
            absolute(model),
            cfg.generator,
            cfg.sampling,
            cfg.data,
            cfg.seed,
            place.generator,
            cfg.device,
        )
        group = reserved.role("generator", Generator, **arguments)
        group.wait(group.call("heartbeat"), deadline.start_s, f"starting the generator for {label}")
        generators = Generators(group, deadline.stage_s)
        with Progress(f"answers of {label}", count, "prompt") as progress:
            for first in range(0, count, _PROMPTS_PER_CALL):
                last = min(first + _PROMPTS_PER_CALL, count)
                batch = prompts.slice(first, last)
                offset = first * cfg.n_samples_per_prompt
                rollouts = generators.generate(batch, cfg.n_samples_per_prompt, seed_offset=offset)
                yield _judge(label, rollouts, judges, text)
                progress.update(last, last - first)
        for handle in group.handles:  # its seat is for the next policy
            ray.kill(handle)


def _judges(cfg: EvaluateConfig, reserved: Reserved) -> _Judges:
    place, deadline = cfg.placement, cfg.deadlines
    budget = PassBudget(cfg.score_micro_batch_tokens)
    scorers = reference = None
    if cfg.reward_model:
        models, device = [absolute(cfg.reward_model)], device_of(place.scorer, cfg.device)
        group = reserved.role("scorer", Scorer, models=models, device=device)
        scorers = Servers(group, "score", budget, deadline.stage_s)
    if cfg.kl_reference:
        group = reserved.role(
            "reference",
            Reference,
            model=absolute(cfg.kl_reference),
            temperature=cfg.sampling.temperature,
            device=device_of(place.reference, cfg.device),
        )
        reference = Servers(group, "logprobs", budget, deadline.stage_s)
    return _Judges(scorers, reference)


def _judge(label: str, rollouts: Rollouts, judges: _Judges, encoder: Encoder) -> pa.Table:
    table = rollouts.table
    scores = kl = [math.nan] * len(table)
    facts = [len(f) for f in table.column("facts_token_ids").to_pylist()]
    scoring = judges.scorers.ask(rollouts, extra_tokens=facts) if judges.scorers else None
    referring = judges.reference.ask(rollouts) if judges.reference else None
    if scoring:
        scores = [float(s[0]) for s in scoring.result()[0]]
    if referring:
        sampled = table.column("rollout_logprobs").to_pylist()
        kl = [float(np.subtract(s, r).sum()) for s, r in zip(sampled, referring.result()[0], strict=True)]
    version = table.column("policy_version")[0].as_py()
    return response_table(encoder, table, label, version, scores, kl)


def summary(responses: pa.Table) -> dict[str, Any]:
    """Per policy and media: mean score with its 95 % interval, KL, length; and win/tie/loss by score."""
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
            if not math.isnan(values[0]):
                entry["score"] = asdict(mean_interval(values))
                if media == "own":
                    scores[policy] = values
            out[f"{policy}, {media} media"] = entry
    if len(scores) == 2:
        out["policy against baseline, by score"] = asdict(win_tie_loss(scores["policy"], scores["baseline"]))
    return out


def read_responses(run_dir: Path, policy: str, media: str = "own") -> pa.Table:
    """Rows of an evaluation's `responses.parquet`."""
    table = pq.read_table(run_dir / RESPONSES_FILE, schema=RESPONSE)
    return table.filter(pc.and_(pc.equal(table["policy"], policy), pc.equal(table["media"], media)))
