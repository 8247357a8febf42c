"""The stages of a round. Each reads what earlier ones left on the disk, writes its own, and returns its figures.

A stage may be run again after having been ended anywhere: it then writes the same, or goes on from its checkpoint.
"""

import hashlib
import json
import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mmrlhf_ray.algorithms.statistics import mean_interval
from mmrlhf_ray.config import PPOConfig, TrainJobConfig, rounds
from mmrlhf_ray.config.iterate import IterateConfig
from mmrlhf_ray.config.rounds import RoundPaths
from mmrlhf_ray.data.records.readers import Records, read_records, write_records
from mmrlhf_ray.data.rowfiles import MEDIA_FILE, RECORDS_FILE
from mmrlhf_ray.errors import RunError
from mmrlhf_ray.feedback.annotations import annotations_of
from mmrlhf_ray.feedback.labels.agreement import agreement, pairwise_agreement
from mmrlhf_ray.feedback.labels.derive import PreferenceRules, derive_preferences
from mmrlhf_ray.pipelines.evaluate import job as evaluate
from mmrlhf_ray.pipelines.iterate.arena import ArenaVotes, arena_votes
from mmrlhf_ray.pipelines.iterate.client import LoopClient
from mmrlhf_ray.pipelines.iterate.member_scores import Said, member_scores
from mmrlhf_ray.pipelines.iterate.metric import Metric, by_prompt, gain, keep_primary, kept_primary, pair_accuracy
from mmrlhf_ray.pipelines.iterate.pairs import Pair, candidate_pairs, choose, item_rows, pair_of
from mmrlhf_ray.pipelines.iterate.programs import annotators
from mmrlhf_ray.pipelines.iterate.state import Figures
from mmrlhf_ray.pipelines.ppo import job as ppo
from mmrlhf_ray.pipelines.preference import job as preference
from mmrlhf_ray.pipelines.supervised import reward_model
from mmrlhf_ray.pipelines.supervised.reward_report import SUMMARY_FILE
from mmrlhf_ray.runtime.progress import Progress
from mmrlhf_ray.schema import MEDIA, PROMPT

T = TypeVar("T", bound=TrainJobConfig)


@dataclass(frozen=True)
class Loop:
    """The arguments of every stage."""

    cfg: IterateConfig
    run_dir: Path
    client: LoopClient
    metric: Metric
    prompts: Records
    """Those of `prompts`."""

    def paths(self, number: int) -> RoundPaths:
        """Of round `number`."""
        return RoundPaths(self.run_dir, number)


def run_stage(loop: Loop, number: int, stage: str) -> Figures:
    """One stage of one round."""
    loop.paths(number).root.mkdir(parents=True, exist_ok=True)
    return STAGES[stage](loop, number)


def sample(loop: Loop, number: int) -> Figures:
    """The round's prompts, and responses of the policy to them."""
    cfg, paths, read = loop.cfg, loop.paths(number), loop.prompts
    count = len(read.records)
    size = min(cfg.sample.prompts or count, count)
    # One shuffle, of which every round takes the next piece: all prompts have their turn before one comes again.
    order = np.random.default_rng([cfg.seed, 1]).permutation(count)
    mine = sorted(int(order[(size * (number - 1) + i) % count]) for i in range(size))
    records = read.records.take(mine)
    write_records(paths.prompts, records, _shown(records, read.media))
    run_dir = evaluate.run(rounds.sample_job(cfg, paths))
    return {"prompts": size, "responses": len(evaluate.read_responses(run_dir, "policy"))}


def select(loop: Loop, number: int) -> Figures:
    """Which pairs of responses are asked about."""
    cfg, paths = loop.cfg, loop.paths(number)
    responses = evaluate.read_responses(paths.root / "sample", "policy")
    asked = [pair for earlier in range(1, number) for pair in map(pair_of, _items(loop.paths(earlier)))]
    rng = np.random.default_rng([cfg.seed, 2, number])
    pairs = candidate_pairs(responses, cfg.ask.candidates_per_prompt, asked, rng)
    prompts = {row["prompt_id"]: row for row in _records(paths.prompts).to_pylist()}
    chosen, name = choose(pairs, prompts, cfg.ask, _scores(loop, number, pairs), rng)
    rows = item_rows(chosen, prompts, cfg.ask, cfg.name, number)
    paths.items.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return {"candidates": len(pairs), "pairs": len(chosen), "selection": name}


def _scores(loop: Loop, number: int, pairs: list[Pair]) -> np.ndarray | None:
    """[pairs, 2, members] by the newest reward model; None where the selection needs none, or there is none."""
    model = rounds.reward_model_after(loop.cfg, loop.run_dir, number - 1)
    if model is None or not loop.cfg.ask.needs_scores or not pairs:
        return None
    paths = loop.paths(number)
    data = rounds.written(loop.cfg.prompts, paths.prompts)
    said = [Said(pair.prompt_id, text) for pair in pairs for text in (pair.first, pair.second)]
    place = {one: i for i, one in enumerate(dict.fromkeys(said))}  # a response is in several pairs
    records = read_records(data, PROMPT, paths.root)
    scores = member_scores(rounds.scoring_job(loop.cfg, paths, model, data), records, list(place), paths.root)
    return scores[[place[one] for one in said]].reshape(len(pairs), 2, -1)


def queue(loop: Loop, number: int) -> Figures:
    """Questions and their media to the server."""
    paths = loop.paths(number)
    rows = _items(paths)
    used = {media_id for row in rows for media_id in row["media_ids"]}
    media = pq.read_table(paths.prompts / MEDIA_FILE, schema=MEDIA)
    loop.client.add_media(media.filter(pc.is_in(media["media_id"], pa.array(sorted(used), pa.string()))))
    loop.client.add_items(rows)
    return {"item_ids": [row["item_id"] for row in rows]}


def wait(loop: Loop, number: int) -> Figures:
    """Until there are enough votes. Raises RunError at the deadline."""
    cfg = loop.cfg
    ids = [row["item_id"] for row in _items(loop.paths(number))]
    needed, until = math.ceil(cfg.wait.enough * len(ids)), time.monotonic() + cfg.wait.deadline_s
    logs = loop.run_dir / "annotators"
    with (
        annotators(cfg.annotators, loop.client, cfg.seed, logs) as programs,
        Progress(f"votes of round {number}", len(ids), "question") as progress,
    ):
        known = 0
        if cfg.annotators is None:
            progress.note(f"people vote at {loop.client.url}")
        while True:
            votes = loop.client.votes(ids)
            whole = sum(found.cast >= found.wanted for found in votes.values())
            cast = sum(found.cast for found in votes.values())
            progress.update(whole, cast - known, votes=float(cast))
            known = cast
            if whole >= needed:
                return {"answered": whole, "asked": len(ids)}
            if time.monotonic() >= until:
                raise RunError(
                    f"round {number}: {whole} of {len(ids)} questions have their votes after {cfg.wait.deadline_s:g} s"
                    f", {needed} are needed; go on with --resume when there are more, or lower wait.enough"
                )
            for program in programs:
                program.check()
            time.sleep(max(0.0, min(cfg.wait.poll_s, until - time.monotonic())))


def labels(loop: Loop, number: int) -> Figures:
    """All votes on this run's questions so far, those of the arena if they are wanted, and preferences from them.

    They are taken anew in every round and every run of the stage: each counts once, and none that is there is missed.
    """
    cfg, paths = loop.cfg, loop.paths(number)
    rounds = [loop.paths(n) for n in range(1, number + 1)]
    ids = {row["item_id"] for earlier in rounds for row in _items(earlier)}
    every = loop.client.annotations()
    arena = arena_votes(loop.client, cfg.prompts.facts_column) if cfg.ask.arena else ArenaVotes()
    ids |= arena.item_ids
    mine = every.filter(pc.is_in(every["item_id"], pa.array(sorted(ids), pa.string())))
    pq.write_table(mine, paths.annotations)
    prompts = {row["prompt_id"]: row for row in arena.prompts}
    prompts |= {row["prompt_id"]: row for earlier in rounds for row in _records(earlier.prompts).to_pylist()}
    media = [arena.media] + [pq.read_table(earlier.prompts / MEDIA_FILE, schema=MEDIA) for earlier in rounds]
    annotations = annotations_of(mine)
    rules = PreferenceRules(consensus=cfg.reward_model.consensus)
    found = derive_preferences(annotations, pa.Table.from_pylist(list(prompts.values()), schema=PROMPT), rules)
    share = cfg.reward_model.heldout_share
    held = pa.array([_held_out(p, share) for p in found.column("prompt_id").to_pylist()], pa.bool_())
    parts = {paths.preferences: found.filter(pc.invert(held)), paths.preferences_heldout: found.filter(held)}
    for path, rows in parts.items():
        write_records(path, rows, _shown(rows, _distinct(media)))
    alpha = [a.alpha for a in agreement(annotations, dict.fromkeys(prompts, "all")) if a.alpha is not None]
    agreed, _ = pairwise_agreement(annotations)
    return {
        "votes": sum(a.role == "annotator" for a in annotations),
        "items": len({a.item_id for a in annotations}),
        "arena_votes": sum(a.item_id in arena.item_ids for a in annotations),
        "annotators": len({a.annotator_id for a in annotations}),
        "preferences": len(parts[paths.preferences]),
        "preferences_heldout": len(parts[paths.preferences_heldout]),
        "agreed": asdict(agreed.agreed) if agreed.agreed else None,
        "alpha": asdict(alpha[0]) if alpha else None,
    }


def train_reward_model(loop: Loop, number: int) -> Figures:
    """A reward model on all preferences so far."""
    paths = loop.paths(number)
    job = warmed(rounds.reward_model_job(loop.cfg, paths, _has_heldout(paths)), _pairs(paths.preferences))
    run_dir = reward_model.run(job, resume=True)
    if not _has_heldout(paths):
        return {"pair_accuracy": None}
    said = json.loads((run_dir / SUMMARY_FILE).read_text())["overall"]
    return {"pair_accuracy": said and said["accuracy"]}


def train_policy(loop: Loop, number: int) -> Figures:
    """PPO, or training on the preferences themselves."""
    paths = loop.paths(number)
    job = rounds.train_job(loop.cfg, paths, _has_heldout(paths))
    if isinstance(job, PPOConfig):
        ppo.run(job, resume=True)
    else:
        preference.run(warmed(job, _pairs(paths.preferences)), resume=True)
    return {}


def warmed(job: T, rows: int) -> T:
    """The job with a warm-up that ends: how many votes there are is not known when a loop is configured."""
    optimizer = job.learner.optimizer
    steps = max(1, job.epochs * rows // job.batch_size if job.epochs else job.steps or 1)
    if optimizer.warmup_steps < steps:
        return job
    print(
        f"── {job.name}: warmup_steps={optimizer.warmup_steps} is {steps - 1} here, of {steps} steps", file=sys.stderr
    )
    shorter = optimizer.model_copy(update={"warmup_steps": steps - 1})
    return job.model_copy(update={"learner": job.learner.model_copy(update={"optimizer": shorter})})


def evaluate_policy(loop: Loop, number: int) -> Figures:
    """The policy's answers to held-out prompts, their primary reward, and what the round gained."""
    paths, metric = loop.paths(number), loop.metric
    job = rounds.evaluate_job(loop.cfg, paths)
    answers = evaluate.read_responses(evaluate.run(job), "policy")
    ids = answers.column("prompt_id").to_pylist()
    figures: dict[str, Any] = {"responses": len(answers), "response_tokens": _mean(answers, "response_tokens")}
    if job.kl_reference:
        figures["kl"] = _mean(answers, "kl")
    own, gains = _primary(loop, number, answers)
    if own is not None and metric.fixed and job.reward_model is not None:
        accuracy = pair_accuracy(ids, answers.column("score").to_pylist(), own)
        figures["reward_model_pairs"] = asdict(accuracy) if accuracy else None
    return {**figures, **gains}


def _primary(loop: Loop, number: int, answers: pa.Table) -> tuple[list[float] | None, Figures]:
    """Primary reward of each answer, and its figures; None where there is no such."""
    metric, ids = loop.metric, answers.column("prompt_id").to_pylist()
    start: dict[str, float] | None = None
    earlier: dict[str, float] | None = None
    if metric.fixed:
        own = metric.scores(answers, number)
        keep_primary(loop.paths(number), own)
        if number:
            start, earlier = kept_primary(loop.paths(0)), kept_primary(loop.paths(number - 1))
    elif number:
        previous = evaluate.read_responses(loop.paths(number - 1).evaluation, "policy")
        both = metric.scores(pa.concat_tables([previous, answers]), number)
        own = both[len(previous) :]
        earlier = by_prompt(previous.column("prompt_id").to_pylist(), both[: len(previous)])
    else:
        return None, {"primary": None, "gain": None, "gain_since_start": None}
    after = by_prompt(ids, own)
    return own, {
        "primary": asdict(mean_interval(list(after.values()))),
        "gain": asdict(gain(earlier, after)) if earlier else None,
        "gain_since_start": asdict(gain(start, after)) if start else None,
    }


STAGES: Mapping[str, Callable[[Loop, int], Figures]] = {
    "sample": sample,
    "select": select,
    "queue": queue,
    "wait": wait,
    "labels": labels,
    "reward_model": train_reward_model,
    "train": train_policy,
    "evaluate": evaluate_policy,
}


def _items(paths: RoundPaths) -> list[dict[str, Any]]:
    return [json.loads(line) for line in paths.items.read_text(encoding="utf-8").splitlines()]


def _records(path: Path) -> pa.Table:
    """PROMPT of a directory that we wrote."""
    return pq.read_table(path / RECORDS_FILE, schema=PROMPT)


def _has_heldout(paths: RoundPaths) -> bool:
    return _pairs(paths.preferences_heldout) > 0


def _pairs(path: Path) -> int:
    """How many preferences were written there."""
    rows: int = pq.read_metadata(path / RECORDS_FILE).num_rows
    return rows


def _shown(records: pa.Table, media: pa.Table) -> pa.Table:
    """MEDIA that the records show."""
    used = sorted({media_id for row in records.column("media_ids").to_pylist() for media_id in row})
    return media.filter(pc.is_in(media["media_id"], pa.array(used, pa.string()))).combine_chunks()


def _distinct(tables: list[pa.Table]) -> pa.Table:
    """Every medium once."""
    joined, seen, keep = pa.concat_tables(tables), set[str](), []
    for media_id in joined.column("media_id").to_pylist():
        keep.append(media_id not in seen)
        seen.add(media_id)
    return joined.filter(pa.array(keep, pa.bool_()))


def _held_out(prompt_id: str, share: float) -> bool:
    """The same prompts in every round."""
    return int.from_bytes(hashlib.sha256(prompt_id.encode()).digest()[:8], "big") < share * 2**64


def _mean(table: pa.Table, column: str) -> float:
    return float(np.mean(table.column(column).to_pylist()))
