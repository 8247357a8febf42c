"""Preference training: a policy learns from pairs or from liked and disliked responses, without a reward model."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa

from mmrlhf_ray.config import DataConfig, PreferenceConfig
from mmrlhf_ray.data.records.readers import Records
from mmrlhf_ray.errors import DataError
from mmrlhf_ray.pipelines.preference.ref_logprobs import with_ref_logprobs
from mmrlhf_ray.pipelines.supervised.fit import run_supervised, set_aside
from mmrlhf_ray.training.preference_tasks import MismatchedResponses, PreferenceTask


def run(cfg: PreferenceConfig, resume: bool = False) -> Path:
    """Train and export to `<run>/model`; returns the run's directory. Raises as preflight()."""
    task = PreferenceTask(cfg)
    mismatched = isinstance(task.reference_point, MismatchedResponses)
    return run_supervised(
        cfg,
        task,
        "preference",
        resume,
        environment=cfg.environment,
        prepare=partial(_prepare, cfg, mismatched),
        row_check=partial(problem, cfg),
        complete=partial(_complete, cfg) if task.objective.has_reference else None,
    )


def _complete(cfg: PreferenceConfig, rows: dict[str, pa.Table], run_dir: Path) -> dict[str, pa.Table]:
    """With the reference's log-probabilities, of all rows in one go."""
    complete = with_ref_logprobs(pa.concat_tables(rows.values()), cfg.reference or cfg.model, cfg, run_dir)
    ends = accumulate(map(len, rows.values()))
    return {name: complete.slice(end - len(rows[name]), len(rows[name])) for name, end in zip(rows, ends, strict=True)}


def _prepare(cfg: PreferenceConfig, mismatched: bool, records: Records, data: DataConfig, run_dir: Path) -> Records:
    """The records that the objective can use, each with a mismatched response where it wants one."""
    bad = problems(cfg, records.records)
    set_aside(records, bad, data, run_dir)
    kept = records.kept([number not in bad for number in range(len(records.records))])
    return with_mismatched(kept) if mismatched else kept


def problems(cfg: PreferenceConfig, records: pa.Table) -> dict[int, tuple[str, str]]:
    """Number of each record that the objective cannot use → (reason, remedy)."""
    judged = records.select(["feedback" if cfg.unpaired else "margin"]).to_pylist()
    found = {number: problem(cfg, row) for number, row in enumerate(judged)}
    return {number: why for number, why in found.items() if why is not None}


def problem(cfg: PreferenceConfig, row: Mapping[str, Any]) -> tuple[str, str] | None:
    """(reason, remedy) where the objective cannot use the record."""
    if cfg.unpaired and not row["feedback"]:
        reason = "feedback is 0, which neither likes nor dislikes the response"
        return reason, "give feedback above 0 for liked and below 0 for disliked responses"
    if not cfg.unpaired and cfg.margin_scale and row["margin"] < 0:
        return "margin is below 0", "exchange chosen and rejected, or set margin_scale to 0"
    return None


def with_mismatched(records: Records) -> Records:
    """With a column `mismatched`: the response of the next record in the file that has another prompt.

    Of pairs the chosen and the rejected response in turns. Raises DataError where all prompts are one.
    """
    table = records.records
    if "response" in table.column_names:
        texts = table.column("response").to_pylist()
    else:
        pairs = zip(table.column("chosen").to_pylist(), table.column("rejected").to_pylist(), strict=True)
        texts = [pair[number % 2] for number, pair in enumerate(pairs)]
    ids = table.column("prompt_id").to_pylist()
    if len(set(ids)) < 2:
        raise DataError(f"{records.file}: every record has the prompt {ids[0]!r}; kto needs two prompts or more")

    def another(number: int) -> str:
        following = ((number + step) % len(ids) for step in range(1, len(ids)))
        return next(texts[other] for other in following if ids[other] != ids[number])

    column = pa.array([another(number) for number in range(len(ids))], pa.string())
    return replace(records, records=table.append_column("mismatched", column))
