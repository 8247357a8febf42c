"""Fits what a reward model's scores owe to form, and each task's scale, to one half of the held-out responses."""

from collections.abc import Sequence
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mmrlhf_ray.algorithms.score_fit import form_coefficients, temperature
from mmrlhf_ray.config import RewardModelConfig
from mmrlhf_ray.errors import DataError
from mmrlhf_ray.models.score_fit import OTHER_TASKS, FormFit, ScoreFit, TaskScale
from mmrlhf_ray.pipelines.supervised.reward_report import pairs_of
from mmrlhf_ray.schema import EVAL_SCORE

FEWEST = 20
"""Pairs (or responses, for means) below which a task takes the scale of all tasks."""


def halves(scores: pa.Table) -> tuple[pa.Table, pa.Table]:
    """An EVAL_SCORE table divided by prompt: what is fitted to, and what is reported of. Raises DataError where one of
    them has no pair."""
    first = first_half(scores)
    parts = scores.filter(pa.array(first, pa.bool_())), scores.filter(pa.array([not own for own in first], pa.bool_()))
    if not all(pairs_of(part) for part in parts):
        raise DataError(
            f"eval_data: {len(scores)} held-out responses expect pairs in both halves, one to fit debias and "
            "score_scale to and one to report of; give more held-out records, or leave both keys out"
        )
    return parts


def first_half(scores: pa.Table) -> list[bool]:
    """Of each row of an EVAL_SCORE table: whether its prompt is in the first half."""
    return [crc32(prompt_id.encode()) % 2 == 0 for prompt_id in scores.column("prompt_id").to_pylist()]


def fit_scores(cfg: RewardModelConfig, scores: pa.Table) -> ScoreFit:
    """To an EVAL_SCORE table: form first, then each task's scale of what is left."""
    form = _form_fits(cfg.debias, scores)
    if cfg.score_scale == "as_learned":
        return form
    left = apply_fit(form, scores)
    scale = _temperature if cfg.score_scale == "temperature" else _moments
    tasks = {OTHER_TASKS: scale(left) or TaskScale()}
    for task in sorted(set(left.column("task").to_pylist())):
        own = scale(left.filter(pc.equal(left["task"], task)))
        if own is not None:
            tasks[task] = own
    return ScoreFit(form.form, tasks)


def apply_fit(fit: ScoreFit, scores: pa.Table) -> pa.Table:
    """An EVAL_SCORE table with the scores that scorers would give."""
    rows = scores.to_pylist()
    members = np.array([row["members"] for row in rows], np.float32)
    fitted = fit.without_form(members, [row["form"] for row in rows], [row["task"] for row in rows])
    changed = [
        row | {"members": own.tolist(), "score": float(own.mean()), "uncertainty": float(own.std())}
        for row, own in zip(rows, fitted, strict=True)
    ]
    return pa.Table.from_pylist(changed, schema=EVAL_SCORE)


def _form_fits(names: Sequence[str], scores: pa.Table) -> ScoreFit:
    if not names:
        return ScoreFit()
    form = np.array(scores.column("form").to_pylist(), np.float64)
    owed = form_coefficients(_column(scores, "score"), form, np.array(scores.column("row").to_pylist(), np.int64))
    measured = zip(names, owed.tolist(), form.T, strict=True)
    return ScoreFit({n: FormFit(c, float(own.mean()), float(own.min()), float(own.max())) for n, c, own in measured})


def _temperature(scores: pa.Table) -> TaskScale | None:
    differences = np.array([pair.difference for pair in pairs_of(scores)], np.float64)
    return TaskScale(scale=temperature(differences)) if len(differences) >= FEWEST else None


def _moments(scores: pa.Table) -> TaskScale | None:
    own = _column(scores, "score")
    if len(own) < FEWEST or not own.std():
        return None
    return TaskScale(float(own.mean()), float(own.std()))


def _column(scores: pa.Table, name: str) -> NDArray[np.float64]:
    return np.array(scores.column(name).to_pylist(), np.float64)
