"""What a job says at its end: the model, where to look, what changed, and what could come next."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmrlhf_ray.config import RunConfig

_NEXT: Mapping[str, str] = {
    "sft": "mmrlhf config grpo > my-grpo.yaml      # there policy.path: {model}",
    "reward-model": "mmrlhf config ppo > my-ppo.yaml      # there rewards[].model.path: {model}",
    "preference": "mmrlhf config evaluate > my-evaluation.yaml      # there policy.path: {model}",
    "ppo": "mmrlhf config evaluate > my-evaluation.yaml      # there policy.path: {model}",
    "iterate": "mmrlhf config evaluate > my-evaluation.yaml      # there policy.path: of the last round",
    "discrete": "mmrlhf discrete-export {run}",
}
_REPORTS = ("report.html", "run.html", "evaluation.json", "probe.json")
"""The job's own comes first, then the one of curves and responses that every run has."""


def ending(job: str, cfg: "RunConfig") -> Iterator[str]:
    """Lines about a run that is done: as many of the four as there is something to say."""
    from mmrlhf_ray.config.base import MODEL_DIR
    from mmrlhf_ray.pipelines.runs.figures import FIGURES
    from mmrlhf_ray.runtime.metric_rows import FILE_NAME, read_metrics

    run, model = cfg.run_dir, cfg.run_dir / MODEL_DIR
    if model.is_dir():
        yield f"model    {_here(model)}"
    report = next((run / name for name in _REPORTS if (run / name).is_file()), None)
    logged = (run / FILE_NAME).is_file()
    if report or logged:
        yield f"report   {'; '.join([*([_here(report)] if report else []), f'mmrlhf runs show {_here(run)}'])}"
    changes = list(_changes(read_metrics(run) if logged else [], FIGURES.get(job, ())))
    if changes:
        yield f"changed  {', '.join(changes)}"
    if job in _NEXT and (model.is_dir() or "{model}" not in _NEXT[job]):
        yield f"next     {_NEXT[job].format(model=_here(model), run=_here(run))}"


def _changes(rows: Sequence[Mapping[str, Any]], figures: Sequence[str]) -> Iterator[str]:
    """How figures went from the first part of the steps that were logged to the last."""
    from mmrlhf_ray.pipelines.runs.figures import parts

    for name in figures:
        values = [row[name] for row in rows if row.get(name) is not None]
        if len(values) > 1:
            first, last = parts(values)
            yield f"{name} {first:.4g} → {last:.4g}"


def _here(path: Path) -> str:
    """As one would type it."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
