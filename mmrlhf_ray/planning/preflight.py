"""Everything about a job that can be found wrong before Ray starts: one way for every job, and for `--dry-run`."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from mmrlhf_ray.config import (
    DataConfig,
    EvaluateConfig,
    IterateConfig,
    PPOConfig,
    PreferenceConfig,
    ProbeRewardConfig,
    Reward,
    RewardModelConfig,
    RunConfig,
    SFTConfig,
    TrainJobConfig,
)
from mmrlhf_ray.config.base import ModelUse, MostMedia, RecordsUse
from mmrlhf_ray.config.paths import HUB
from mmrlhf_ray.config.rewarded import RewardedConfig
from mmrlhf_ray.config.rounds import first_round
from mmrlhf_ray.data.encoding.cache import check_spill_dir
from mmrlhf_ray.data.encoding.encode import load_encoder, too_many_media
from mmrlhf_ray.data.encoding.turns import check_turns
from mmrlhf_ray.data.errors import bad_rows_error
from mmrlhf_ray.data.records.readers import Records, first_records, read_records
from mmrlhf_ray.environments.check import check_environment, lacking_files
from mmrlhf_ray.errors import ConfigError, DataError, ModelError, UserError
from mmrlhf_ray.models import (
    adapter_for,
    check_processor_files,
    check_same_tokens,
    check_speaks,
    read_config,
    scalar_head_file,
)
from mmrlhf_ray.planning.lengths import check_lengths
from mmrlhf_ray.planning.placement import check_consistent, check_fits, reservations, this_machine
from mmrlhf_ray.planning.sequence import check_spread
from mmrlhf_ray.planning.shared import check_shared
from mmrlhf_ray.planning.sizes import check_learners, context_tokens
from mmrlhf_ray.rewards.batch import extras_columns
from mmrlhf_ray.rewards.check import check_rewards
from mmrlhf_ray.runtime.mirror import storage
from mmrlhf_ray.runtime.session import SessionInfo, check_open_files, starts_cluster
from mmrlhf_ray.schema import TABLES
from mmrlhf_ray.tracking.trackers import check_trackers
from mmrlhf_ray.training.deepspeed_config import check_settings

_FIRST_ROWS = 256
"""Rows of a stream that are looked at."""


@dataclass(frozen=True)
class Checked:
    """A job in which nothing was found wrong."""

    run_dir: Path
    """The run's directory, as the `directory` of preflight() gave it."""
    records: Mapping[str, Records]
    """Configuration key → what was read there: all rows, or for rewards the first ones of a stream. Without streams
    that only training reads, and in a dry run without what is not here."""
    not_checked: tuple[str, ...] = ()
    """Models and records that a dry run did not find here."""


@contextmanager
def preflight(cfg: RunConfig, directory: AbstractContextManager[Path], *, dry: bool = False) -> Iterator[Checked]:
    """Check `cfg`, then enter `directory`, read the records, check these, and give both to the block.

    `directory` is the run's own (`run_directory(cfg)`), where bad rows are set aside; nothing is written before the
    configuration is found right. `dry`: models and records that are not on this machine are left out instead of
    refused, and a job that reserves more GPUs than there are here is taken for one of a cluster.

    Raises ConfigError, ModelError, PlacementError, DataError: each names what was expected, what came and what to do.
    """
    missing: list[str] | None = [] if dry else None
    tools = _check_settings(cfg, missing)
    for job in first_round(cfg) if isinstance(cfg, IterateConfig) else ():
        _check_stage(job, dry)
    with directory as run_dir:
        records = read_all(cfg, run_dir, missing)
        _check_lengths(cfg, records, tools)
        for rewards, key in _rewards(cfg):
            check_rewards(rewards, extras_columns(records[key].records) if key in records else None)
        yield Checked(run_dir, records, tuple(missing or ()))


def _check_settings(cfg: RunConfig, missing: list[str] | None) -> list[dict[str, Any]]:
    """All but rows and rewards. `missing`: where to note what is not here; None = it is refused. Returns the tools that
    prompts describe, as JSON schemas."""
    check_consistent(cfg)
    check_trackers(cfg)
    if cfg.run_url is not None:
        storage(cfg.run_url)
    for key, wanted in cfg.records.items():
        refuse_streaming(wanted.data, wanted.held_for, key)
    if isinstance(cfg, PPOConfig | TrainJobConfig):
        check_training_data(cfg.data, weighted=isinstance(cfg, PPOConfig))
        if missing is None:  # a dry run writes nowhere
            check_spill_dir(cfg.data)
    has = (PPOConfig, EvaluateConfig, SFTConfig, RewardModelConfig, PreferenceConfig)
    environment = cfg.environment if isinstance(cfg, has) else None
    if environment is not None and missing is not None and (files := lacking_files(environment)):
        missing += [f"environment: {file} is not here: not checked" for file in files]
        environment = None
    tools = None if environment is None else check_environment(environment)
    here = _models_here(cfg, missing)
    for use in here:
        check_context(use)
    if here:
        encoder = load_encoder(here[0].config.path, allowed=_allowed(cfg))  # which every role of the job will do
        if tools is not None:
            check_turns(replace(encoder, tools=tools))
        check_same_tokens(here[0].config.path, *(use.config.path for use in here[1:]))
    _check_learners(cfg)
    check_spread(cfg)
    _check_machine(cfg, dry=missing is not None)
    return tools or []


def _check_stage(job: RunConfig, dry: bool) -> None:
    """A job of a round, whose models and records other jobs of the loop will make."""
    try:
        check_consistent(job)
        check_trackers(job)
        _check_learners(job)
        check_spread(job)
        _check_machine(job, dry)
    except UserError as error:
        error.add_note(f"This is about the job {job.name!r} of a round.")
        raise


def _check_learners(cfg: RunConfig) -> None:
    """What is trained fits its model, and DeepSpeed takes its settings."""
    check_learners(cfg)
    for section, use in cfg.trained.items():
        check_settings(use.config.engine, use.config.optimizer, getattr(torch, use.model.compute_dtype), section)


def _models_here(cfg: RunConfig, missing: list[str] | None) -> list[ModelUse]:
    here = []
    for key, use in cfg.models.items():
        path = use.config.path
        if missing is not None and not Path(path).is_dir():
            missing.append(f"{key}: {path} is not here: not checked")
            continue
        check_models(path)
        check_processor_files(path)
        if use.scores:
            scalar_head_file(path)
        elif not use.any_head:
            check_speaks(path)
        check_weights(path)
        here.append(use)
    return here


def check_weights(path: str) -> None:
    """Raise ModelError where a model's files lack weights that its class needs, or hold others. Reads their names and
    shapes alone."""
    files = [file for file in Path(path).iterdir() if file.suffix in (".safetensors", ".json")]
    _named(path, tuple(sorted((file.name, file.stat().st_mtime_ns, file.stat().st_size) for file in files)))


@lru_cache(maxsize=64)  # a loop checks the same models again and again
def _named(path: str, files: tuple[tuple[str, int, int], ...]) -> None:
    adapter_for(Path(path)).load(Path(path), torch.float32, device_map="meta")


def check_models(*paths: str) -> None:
    """Raise ModelError where a model directory is missing or holds no model."""
    for path in paths:
        if not Path(path).is_dir():
            raise ModelError(f"{path}: no such model directory; check the path, or write hf:ORG/NAME to fetch a model")
        read_config(Path(path))


def check_reward_model(path: str) -> None:
    """check_models() for a directory that must score responses. Raises ModelError where it has no scalar head."""
    check_models(path)
    scalar_head_file(path)


def check_context(use: ModelUse) -> None:
    """Raise ConfigError where a model has too short a context for the longest prompt and response."""
    most = context_tokens(Path(use.config.path)) if use.reads else None
    if use.reads is not None and most is not None and use.reads.tokens > most:
        raise ConfigError(
            f"{use.reads.keys} = {use.reads.tokens} is more than the {most} tokens of {use.config.path}; "
            "lower one of them"
        )


def _allowed(cfg: RunConfig) -> tuple[str, ...]:
    """Special tokens that responses may hold."""
    if isinstance(cfg, IterateConfig):
        return cfg.sample.allow_tokens
    if isinstance(cfg, PPOConfig | EvaluateConfig | ProbeRewardConfig | TrainJobConfig):
        return cfg.sampling.allow_tokens
    return ()


def _check_machine(cfg: RunConfig, dry: bool) -> None:
    """Raise PlacementError where the job will run here and has no room, RunError where too few files may be open. A
    cluster is asked once it is there."""
    if not starts_cluster():
        return
    if not dry:
        check_open_files()
    cpus, gpus = this_machine(cfg)
    if dry and sum(r.total_gpus for r in reservations(cfg)) > gpus:
        return  # a plan for machines that are not this one
    check_fits(cfg, cpus, gpus, "this machine")


def check_cluster(cfg: RunConfig, session: SessionInfo) -> None:
    """Raise PlacementError where the Ray that a job is connected to has no room for it, RunError where its nodes do not
    share the run's directory."""
    where = "this machine" if session.started_here else "the cluster"
    check_fits(cfg, session.resources.get("CPU", 0.0), session.resources.get("GPU", 0.0), where)
    if not session.started_here:
        check_shared(cfg.run_dir, cfg.roles.values(), cfg.deadlines.start_s)


def check_training_data(config: DataConfig, *, weighted: bool = True) -> None:
    """Raise ConfigError for what training cannot do. `weighted`: whether it draws from a mixture by weight even where
    it holds all rows."""
    if config.streaming:
        return
    if config.augment is not None:
        raise ConfigError("data.augment changes media anew whenever they are read; set data.streaming to true")
    if not weighted and len({source.weight for source in config.mixture}) > 1:
        raise ConfigError(
            "data.sources: without streaming every row counts once an epoch; set data.streaming to true or drop weight"
        )


def refuse_streaming(config: DataConfig, who: str | None, key: str = "data") -> None:
    """Raise ConfigError where `who` needs all rows at once."""
    if config.streaming and who is not None:
        raise ConfigError(f"{key}.streaming: {who} needs all rows before it starts; set streaming to false")


def read_all(cfg: RunConfig, run_dir: Path, missing: list[str] | None = None) -> dict[str, Records]:
    """Configuration key → its records. A set that several keys name is read once. Raises DataError. `missing`: where to
    note what is not here; None = it is refused."""
    read: dict[str, Records] = {}
    for key, use in cfg.records.items():
        gone = [source.path for source in use.data.mixture if not _is_here(source.path)]
        if missing is not None and gone:
            missing.append(f"{key}: {gone[0]} is not here: not checked")
            continue
        if use.data.streaming and isinstance(cfg, TrainJobConfig):
            continue  # its workers read it
        twin = next((k for k in read if cfg.records[k].data == use.data and cfg.records[k].table == use.table), None)
        read[key] = read[twin] if twin else _records(use, cfg.seed, run_dir)
        _check_rows(key, use, read[key])
        if key == "data" and isinstance(cfg, TrainJobConfig):
            check_warmup(cfg, len(read[key].records))
    return read


def _check_lengths(cfg: RunConfig, records: Mapping[str, Records], tools: Sequence[Mapping[str, Any]]) -> None:
    """Raise DataError for rows that are too long for the model that reads them, with `tools` described in prompts."""
    path = next((Path(use.config.path) for use in cfg.models.values()), None)
    if path is None or not path.is_dir() or isinstance(cfg, IterateConfig):  # a loop's jobs check their own
        return
    encoder = load_encoder(path, allowed=_allowed(cfg), tools=tools)
    most = context_tokens(path)
    for key, read in records.items():
        check_lengths(encoder, read, cfg.records[key].data, most)


def _is_here(path: str) -> bool:
    return "://" not in path and not path.startswith(HUB) and Path(path).exists()


def _records(use: RecordsUse, seed: int, run_dir: Path) -> Records:
    schema = TABLES[use.table]
    if use.data.streaming:
        return first_records(use.data, schema, seed, _FIRST_ROWS)
    return read_records(use.data, schema, run_dir)


def _check_rows(key: str, use: RecordsUse, read: Records) -> None:
    """Raise DataError where there are fewer rows than a batch has. Of a stream only the first ones were counted."""
    rows = len(read.records)
    if use.data.streaming:
        rows += read.bad_rows
        if rows == _FIRST_ROWS:
            return
    if use.most_media is not None and use.data.on_bad_row == "fail":  # else the encoder sets such rows aside
        _check_media(use.most_media, read)
    if use.batch is not None:
        check_batch(f"{key}: {read.file}", rows, *use.batch)


def _check_media(most: MostMedia, read: Records) -> None:
    """Raise DataError where a prompt shows more clips of a kind than the sampler takes."""
    kinds = dict(zip(*(read.media.column(name).to_pylist() for name in ("media_id", "kind")), strict=True))
    bad = []
    for number, media_ids in enumerate(read.records.column("media_ids").to_pylist()):
        reason = too_many_media([kinds[media_id] for media_id in media_ids], most)
        if reason is not None:
            name = read.records.column("prompt_id")[number].as_py()
            bad.append(read.bad_row(number, name, reason, f"Show fewer or raise {most.key}"))
    if bad:
        raise bad_rows_error(bad, f"{read.file}: {len(bad)} bad rows")


def check_batch(where: str, rows: int, key: str, size: int) -> None:
    """Raise DataError where `where` has fewer rows than a batch of `key` = `size`."""
    if rows < size:
        raise DataError(f"{where} has {rows} usable rows, fewer than {key}={size}; lower it, or give more rows")


def check_warmup(cfg: TrainJobConfig, rows: int) -> None:
    """Raise ConfigError where the warm-up is as long as all epochs of `rows` rows. (`steps`: the configuration's own
    checks.)"""
    if cfg.epochs is None or not cfg.learner.optimizer.warmup_steps:
        return
    whose = f"epochs={cfg.epochs} of {rows} rows"
    try:
        cfg.learner.optimizer.refuse_long_warmup(cfg.epochs * rows // cfg.batch_size, "learner.optimizer", whose)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _rewards(cfg: RunConfig) -> Iterator[tuple[Sequence[Reward], str]]:
    """Rewards, with the key of the records whose columns they are given."""
    if isinstance(cfg, IterateConfig):
        yield cfg.evaluate.rewards, "evaluate.data"
        for job in first_round(cfg):
            if isinstance(job, PPOConfig):
                yield job.rewards, "prompts"
    elif isinstance(cfg, RewardedConfig):
        yield cfg.rewards, "data"
        if "eval_data" in cfg.records:
            yield cfg.rewards, "eval_data"
    elif isinstance(cfg, RewardModelConfig):
        yield cfg.judges, "eval_data"
