"""Reward-model training on preferences, rankings or ratings, and its report on held-out ones."""

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mmrlhf_ray.config import DataConfig, RewardModelConfig
from mmrlhf_ray.config.base import MODEL_DIR
from mmrlhf_ray.data.records.readers import Records, read_records
from mmrlhf_ray.models.card import Result, Results, add_results
from mmrlhf_ray.models.score_fit import write_score_fit
from mmrlhf_ray.pipelines.supervised.fit import Added, run_supervised, set_aside
from mmrlhf_ray.pipelines.supervised.judge_agreement import judge_agreements
from mmrlhf_ray.pipelines.supervised.reward_report import RewardSummary, headline, write_report
from mmrlhf_ray.pipelines.supervised.score_fit import apply_fit, fit_scores, halves
from mmrlhf_ray.rewards.adversary import Adversary, Honest
from mmrlhf_ray.rewards.negatives import negative_records
from mmrlhf_ray.schema import EVAL_SCORE, TABLES
from mmrlhf_ray.training.reward_tasks import RewardModelTask
from mmrlhf_ray.training.supervised import EVAL_SCORES_FILE

logger = logging.getLogger(__name__)


def run(cfg: RewardModelConfig, resume: bool = False) -> Path:
    """Train and export to `<run>/model`; with `eval_data`, also write `eval_scores.parquet` (EVAL_SCORE),
    `reward_model.json` and `report.html`, and print the report's headline. Returns the run's directory. Raises as
    preflight().
    """
    run_dir = run_supervised(
        cfg,
        RewardModelTask(cfg),
        "reward_model",
        resume,
        environment=cfg.environment,
        aspects=tuple(cfg.aspects),
        prepare=ranked_only if cfg.objective == "plackett_luce" else None,
        row_check=unranked if cfg.objective == "plackett_luce" else None,
        added=Added(partial(adversarial_records, cfg=cfg), cfg.adversarial_share) if cfg.adversarial_share else None,
    )
    if cfg.eval_data and not (run_dir / EVAL_SCORES_FILE).is_file():
        logger.warning("%s: the run was finished without eval_data, so that there is no report", run_dir)
    elif cfg.eval_data:
        scores = _fitted(cfg, run_dir)
        judged = judge_agreements(cfg, _held_out(cfg, run_dir), scores) if cfg.judges else {}
        summary = write_report(run_dir, cfg.name, cfg.objective, tuple(cfg.aspects), scores, judged)
        _add_to_card(run_dir / MODEL_DIR, summary)
        print(headline(summary))
    return run_dir


def _add_to_card(model: Path, summary: RewardSummary) -> None:
    if summary.overall is None:
        return
    found = summary.overall.accuracy
    rows = [Result("pair_accuracy", found.estimate, found.low, found.high)]
    if calibration := summary.overall.calibration:
        rows += [
            Result("calibration_error", calibration.expected_calibration_error),
            Result("brier", calibration.brier),
        ]
    note = f"{summary.overall.pairs} pairs; brackets are 95 % intervals."
    add_results(model, Results("Agreement with people", "held-out preferences", rows, note))


def _fitted(cfg: RewardModelConfig, run_dir: Path) -> pa.Table:
    """The held-out scores to report of. Where something is fitted to one half of them, that is written to the model,
    and they are the other half with it."""
    scores = pq.read_table(run_dir / EVAL_SCORES_FILE, schema=EVAL_SCORE)
    if not cfg.debias and cfg.score_scale == "as_learned":
        return scores
    own, others = halves(scores)
    fit = fit_scores(cfg, own)
    write_score_fit(run_dir / MODEL_DIR, fit)
    return apply_fit(fit, others)


def _held_out(cfg: RewardModelConfig, run_dir: Path) -> Records:
    """The held-out records, numbered as EVAL_SCORE has them."""
    assert cfg.eval_data is not None
    read = read_records(cfg.eval_data, TABLES[cfg.table], run_dir)
    return ranked_only(read, cfg.eval_data, run_dir) if cfg.objective == "plackett_luce" else read


def ranked_only(records: Records, data: DataConfig, run_dir: Path) -> Records:
    """Without records that have ratings but no ranks, which are bad ones here."""
    found = [unranked(row) for row in records.records.select(["ranks"]).to_pylist()]
    bad = {number: why for number, why in enumerate(found) if why is not None}
    if bad:
        set_aside(records, bad, data, run_dir)
    return records.kept([why is None for why in found])


def unranked(row: Mapping[str, Any]) -> tuple[str, str] | None:
    """(reason, remedy) where nobody ranked the record's responses."""
    if row["ranks"]:
        return None
    return "the responses have no ranks", "Give ranks, leave the row out, or train with objective=rating"


def adversarial_records(records: Records, cfg: RewardModelConfig) -> pa.Table:
    """One adversarial record of each, of the same kind: what the record prefers against a response made to fool."""
    kinds = dict(zip(*(records.media.column(name).to_pylist() for name in ("media_id", "kind")), strict=True))
    honest = [Honest(row, _preferred(row)) for row in records.records.to_pylist()]
    adversary = Adversary(
        honest,
        kinds,
        cfg.adversarial_words,
        cfg.seed,
        facts_column=cfg.data.facts_column,
        refusal=cfg.adversarial_refusal,
    )
    made = [adversary.one(number, own) for number, own in enumerate(honest)]
    return negative_records([fooling for fooling in made if fooling is not None], cfg.table)


def _preferred(row: Mapping[str, Any]) -> str:
    if "chosen" in row:
        return str(row["chosen"])
    return str(row["responses"][row["ranks"].index(min(row["ranks"]))])
