"""The output of `--dry-run`: a job's plan, after all checks that can be made where it is planned."""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmrlhf_ray.config import (
    BehaviourConfig,
    DiscreteConfig,
    EvaluateConfig,
    IterateConfig,
    PPOConfig,
    ProbeRewardConfig,
    RunConfig,
    TrainJobConfig,
)
from mmrlhf_ray.config.rounds import first_round
from mmrlhf_ray.planning.auto import machine_here
from mmrlhf_ray.planning.devices import Nodes
from mmrlhf_ray.planning.placement import reservations
from mmrlhf_ray.planning.plan import Plan, plan_ppo
from mmrlhf_ray.planning.preflight import Checked, preflight
from mmrlhf_ray.planning.render import render, role_table
from mmrlhf_ray.planning.sizes import check_learners, model_size
from mmrlhf_ray.runtime.session import starts_cluster


def dry_run(cfg: RunConfig) -> str:
    """Check `cfg` as a run would, as far as its models and records are here, and say what it will do. Starts and writes
    nothing. Raises as preflight()."""
    with preflight(cfg, _scratch(), dry=True) as checked:
        plan = render(_plan(cfg)) if isinstance(cfg, PPOConfig) else "\n".join(_overview(cfg, checked))
        return "\n".join([plan, *_section("Records", _records(checked)), *_section("Not checked", checked.not_checked)])


def _plan(cfg: PPOConfig) -> Plan:
    """For this machine, where a job that starts its own Ray fits its GPUs or needs none; else for the nodes of a
    cluster."""
    here, needed = machine_here(cfg).node, sum(r.total_gpus for r in reservations(cfg))
    if starts_cluster() and needed <= here.gpus:
        return plan_ppo(cfg, here if needed else Nodes(gpus=0, cpus=here.cpus))
    return plan_ppo(cfg)


@contextmanager
def _scratch() -> Iterator[Path]:
    """A directory for the bad rows that a run would set aside in its own; not logged, since it is removed."""
    logger = logging.getLogger("mmrlhf_ray.data.records.quarantine")
    with tempfile.TemporaryDirectory(prefix="mmrlhf-") as directory:
        before, logger.disabled = logger.disabled, True
        try:
            yield Path(directory)
        finally:
            logger.disabled = before


def _overview(cfg: RunConfig, checked: Checked) -> Iterator[str]:
    yield f"Plan of {cfg.name}: {_length(cfg, checked)}, device {cfg.device}. Nothing was started."
    for job in first_round(cfg) if isinstance(cfg, IterateConfig) else (cfg,):
        title = "Reserved" if job is cfg else f"Reserved by each round's job {job.name!r}"
        yield from _section(title, (line.removeprefix("  ") for line in role_table(reservations(job))))
    yield from _section("Models", _models(cfg))


def _length(cfg: RunConfig, checked: Checked) -> str:
    rows = len(checked.records["data"].records) if "data" in checked.records else None
    if isinstance(cfg, TrainJobConfig):
        if cfg.steps is not None:
            return f"{cfg.steps} steps of {cfg.batch_size} rows"
        of = "" if rows is None else f" of {rows // cfg.batch_size} steps"
        return f"{cfg.epochs} epoch{'s' if cfg.epochs != 1 else ''}{of}, {cfg.batch_size} rows a step"
    if isinstance(cfg, EvaluateConfig):
        each = cfg.n_samples_per_prompt * (2 if cfg.baseline else 1)
        return f"{each} response{'s' if each > 1 else ''} to each of {'the' if rows is None else rows} prompts"
    if isinstance(cfg, ProbeRewardConfig):
        return f"{cfg.prompts} prompts"
    if isinstance(cfg, DiscreteConfig | BehaviourConfig):
        return f"{cfg.steps} steps of {cfg.decisions_per_step} decisions"
    return f"{cfg.rounds} rounds at most" if isinstance(cfg, IterateConfig) else ""


def _models(cfg: RunConfig) -> Iterator[str]:
    trained = {cfg.trained[section].model.path: count for section, count in check_learners(cfg).items()}
    for key, use in cfg.models.items():
        size, path = model_size(use.config), use.config.path
        said = "size not known" if size is None else f"{size.parameters:,} parameters, {use.config.compute_dtype}"
        yield f"{key}: {path}: {said}" + (f", {trained[path]:,} of them trained" if path in trained else "")


def _records(checked: Checked) -> Iterator[str]:
    for key, read in checked.records.items():
        bad = f", {read.bad_rows} bad ones set aside" if read.bad_rows else ""
        yield f"{key}: {read.file}: {len(read.records):,} rows, {len(read.media):,} media{bad}"


def _section(title: str, lines: Iterator[str] | tuple[str, ...]) -> list[str]:
    found = [f"  {line}" for line in lines]
    return ["", title, *found] if found else []
