"""--resume, the same in every job: which run a checkpoint is of, what may have changed since, where to continue."""

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from mmrlhf_ray.config import RunConfig, save_config
from mmrlhf_ray.config.base import MODEL_DIR
from mmrlhf_ray.config.load import kind_of
from mmrlhf_ray.data.records.readers import Records
from mmrlhf_ray.errors import ConfigError, RunError
from mmrlhf_ray.models import ADAPTER_DIR
from mmrlhf_ray.pipelines.run_dir import CONFIG_FILE
from mmrlhf_ray.training.checkpoint import Complete, Manifest, newest_complete, set_aside

logger = logging.getLogger(__name__)

_WHERE = frozenset({"name", "output_dir", "work_dir"})
"""Keys that say where the run's directory is, which may be moved."""
_LENGTH = frozenset({"steps", "epochs", "max_minutes", "stop_at"})
_APPLIED = (
    *_LENGTH,
    "*optimizer.*",
    "*.engine.micro_batch_tokens", "*.engine.max_padding_share", "*.engine.shared_prompt",
    "*.engine.gradient_checkpointing", "*.engine.attention", "*.engine.logits_tile",
    "*.engine.sequence_parallel",
    "algorithm.kl_coef", "algorithm.kl_target", "algorithm.kl_horizon", "algorithm.clip_range*", "algorithm.dual_clip",
    "algorithm.value_clip_range", "algorithm.vf_coef", "algorithm.entropy_coef", "algorithm.critic_warmup_steps",
    "algorithm.old_logprobs", "stream.*", "selection*",
    "rewards.*.cost.*", "rewards.*.url", "rewards.*.base_url", "rewards.*.token_env", "rewards.*.batch_size",
    "rewards.*.concurrency", "rewards.*.timeout_s", "rewards.*.attempts", "rewards.*.backoff_s", "rewards.*.deadline_s",
    "rewards.*.memory_mb", "rewards.*.cached_answers", "rewards.*.on_missing",
    "log_every_steps", "eval_every_steps", "eval_data*", "eval_samples_per_prompt", "evaluation.*", "rollouts_logged",
    "media_kept_mb", "track*", "profile*",
    "early_stop*", "judges*", "parity_gate.*", "env.*", "reference_engine",
    "checkpoint.*", "recovery.*", "deadlines.*", "device", "generator.*", "weights.*",
    "score_micro_batch_tokens", "sweep*",
    "placement.strategy", "*.num_cpus", "*.num_gpus", "*.threads",
    "placement.generator.replicas*", "placement.scorer.replicas", "placement.reference.replicas",
    "placement.encoder.replicas", "placement.eval_encoder.replicas",
    "placement.policy.replicas", "placement.critic.replicas", "workers.replicas",
    "*data.decode.*", "*data.encoder_cache_mb", "*data.spill_*", "*data.stream_workers", "*data.check_rows",
    "*data.remote.*",
)  # fmt: skip
"""Keys whose value a resumed run takes from its configuration. All others must be what the run was started with."""
_WEIGHTS = frozenset({".safetensors", ".bin", ".json", ".jinja", ".txt", ".model"})
_NOT_GIVEN = "not given"
_SHOWN = 120


@dataclass(frozen=True)
class Change:
    """A setting that is another one than it was."""

    was: Any
    now: Any

    def __str__(self) -> str:
        return f"was {_said(self.was)}, is now {_said(self.now)}"


@dataclass(frozen=True)
class RunRecord:
    """What a run is, for its checkpoints."""

    job: str
    settings: Mapping[str, Any]
    """The configuration, every default spelled out."""
    weights: Mapping[str, str] = field(default_factory=dict)
    """Key of each model that is loaded → hash of its files."""
    rows: Mapping[str, str] = field(default_factory=dict)
    """Key of records that are learned from → how many there are and their hash."""
    functions: Mapping[str, str] = field(default_factory=dict)
    """Key of each function of the user's own → hash of its file."""

    def to_dict(self) -> dict[str, Any]:
        """For the manifest; JSON."""
        return {
            "job": self.job,
            "settings": self.settings,
            "weights": self.weights,
            "rows": self.rows,
            "functions": self.functions,
        }


@dataclass(frozen=True)
class Start:
    """Where a run starts, and all that its checkpoints say of it."""

    record: RunRecord
    step: int = 0
    """Steps that are done."""
    checkpoint: Path | None = None
    """To load; None = the run starts at step 0."""
    policy_version: int = 0
    driver: Mapping[str, Any] = field(default_factory=dict)
    changed: Mapping[str, Change] = field(default_factory=dict)
    """Settings that are applied, although the checkpoint's are others."""
    finished: bool = False
    """There is nothing to do."""

    @property
    def resume_step(self) -> int | None:
        """As of MetricsWriter: earlier metrics are set aside where the run starts over."""
        return None if self.checkpoint is None else self.step


def run_record(cfg: RunConfig, rows: Mapping[str, Records | int]) -> RunRecord:
    """Of a run that learns from `rows`: configuration key → the records, or only their number where they are streamed.

    Hashes all files of all models that are loaded.
    """
    settings = {key: value for key, value in cfg.model_dump(mode="json").items() if key not in _WHERE}
    weights = {path: _weights(Path(path)) for path in {use.config.path for use in cfg.models.values()}}
    return RunRecord(
        job=kind_of(cfg),
        settings=settings,
        weights={key: weights[use.config.path] for key, use in cfg.models.items()},
        rows={key: _rows(found) for key, found in rows.items() if key != "eval_data"},
        functions={key: f"sha256 {_sha256(file)[:16]}" for key, file in _functions(settings)},
    )


def begin(cfg: RunConfig, run_dir: Path, record: RunRecord, resume: bool, exported: str = MODEL_DIR) -> Start:
    """Where the run starts. Writes its config.yaml and, unless it is finished, sets aside what an earlier one exported
    to `exported`, so that model and configuration always belong together. Checkpoints are left alone, damaged ones
    renamed.

    Raises RunError where no checkpoint can be read or a setting is another one that may not change on the way, and
    ConfigError where the run would replace a model that it starts from. Nothing is changed then.
    """
    _check_inputs(cfg, run_dir)
    start, passed_over = _found(cfg, run_dir, record, exported) if resume else (Start(record), {})
    if start.finished:
        logger.warning("%s: the run is finished, there is nothing to do; without --resume it starts over", run_dir)
        return start
    for path, wrong in passed_over.items():
        logger.warning("%s; the checkpoint is kept as %s", wrong, set_aside(path).name)
    if start.checkpoint is not None:
        logger.warning("continuing from %s", start.checkpoint)
    elif resume:
        logger.warning("%s: there is no checkpoint to resume from; starting at step 0", run_dir)
    for key, change in start.changed.items():
        logger.warning("  %s %s: applied from here on", key, change)
    for name in (exported, ADAPTER_DIR):
        if (run_dir / name).exists():
            shutil.rmtree(_previous(run_dir, name), ignore_errors=True)
            (run_dir / name).rename(_previous(run_dir, name))
    save_config(cfg, run_dir / CONFIG_FILE)
    return start


def finish(run_dir: Path, exported: str = MODEL_DIR) -> None:
    """The run has exported its model: the one that begin() set aside is no longer needed."""
    for name in (exported, ADAPTER_DIR):
        shutil.rmtree(_previous(run_dir, name), ignore_errors=True)


def check_length(start: Start, steps: int, key: str) -> None:
    """Raise RunError where the checkpoint is beyond the run's last step. `key`: what says how many there are. begin()
    does so where `steps` says it."""
    if start.step > steps:
        raise RunError(
            f"{start.checkpoint}: {start.step} steps are done, more than the {steps} that {key} gives; raise it, or "
            "run without --resume to start over"
        )


def differences(was: Any, now: Any, key: str = "") -> Iterator[tuple[str, Change]]:
    """Dotted key of each value that differs. Components of a list go by their `name`."""
    was, now = _by_name(was), _by_name(now)
    if isinstance(was, Mapping) and isinstance(now, Mapping):
        for name in dict.fromkeys([*was, *now]):
            below = f"{key}.{name}" if key else name
            yield from differences(was.get(name, _NOT_GIVEN), now.get(name, _NOT_GIVEN), below)
    elif was != now:
        yield key, Change(was, now)


def _found(cfg: RunConfig, run_dir: Path, record: RunRecord, exported: str) -> tuple[Start, Mapping[Path, str]]:
    """The start that --resume asks for, and checkpoints that are passed over."""
    complete = newest_complete(run_dir)
    there = (run_dir / exported).exists()
    if complete is None:
        if there:
            _check_finished(run_dir, record)
        return Start(record, finished=there), {}
    manifest = complete.manifest
    changed = compare(complete, record, cfg)
    start = Start(
        record=record,
        step=manifest.step,
        checkpoint=complete.path,
        policy_version=manifest.policy_version,
        driver=manifest.driver,
        changed=changed,
        finished=manifest.finished and there and not _LENGTH & changed.keys(),
    )
    if (steps := record.settings.get("steps")) is not None:
        check_length(start, steps, f"steps={steps}")
    return start, complete.passed_over


def compare(complete: Complete, record: RunRecord, cfg: RunConfig) -> dict[str, Change]:
    """Settings that differ from the checkpoint's and are applied. Raises RunError with all that must not differ."""
    manifest = complete.manifest
    if not manifest.run:
        logger.warning("%s: of an earlier version, which did not write down its settings", complete.path)
        if manifest.seed != cfg.seed:
            raise _other(complete.path, [f"seed {Change(manifest.seed, cfg.seed)}"])
        return {}
    if manifest.run["job"] != record.job:
        raise RunError(
            f"{complete.path}: written by a {manifest.run['job']} job, this is a {record.job} job; choose another name"
        )
    was = _as_settings(cfg, manifest)
    weights = dict(differences(manifest.run["weights"], record.weights))
    # Where a model lies may change as long as it is the same one.
    moved = {f"{key}.path" for key in record.weights}
    changed = dict(differences(was, record.settings))
    refused = [f"{key} {change}" for key, change in changed.items() if key not in moved and not _is_applied(key)]
    known = {key.split(" ")[0] for key in refused}
    for key in weights:
        if not any(key.startswith(other) for other in known):
            refused.append(f"{key}: the files in {cfg.models[key].config.path} are not those it was started from")
    rows = dict(differences(manifest.run["rows"], record.rows))
    for key, change in rows.items():
        if f"{key}.path" not in known:
            refused.append(f"{key}: its rows are others: {change}")
    if refused:
        raise _other(complete.path, refused)
    # A function whose file has changed is most often one that was fixed because it ended the run.
    functions = manifest.run.get("functions", record.functions)
    edited = {f"{key}, its file,": change for key, change in differences(functions, record.functions)}
    return {key: change for key, change in changed.items() if key not in moved} | edited


def _as_settings(cfg: RunConfig, manifest: Manifest) -> Mapping[str, Any]:
    """The checkpoint's settings; keys that its version did not have are at their defaults."""
    written: Mapping[str, Any] = manifest.run["settings"]
    try:
        complete = type(cfg).model_validate({**written, "name": cfg.name})
    except ValidationError:  # keys that are no longer known are differences
        return written
    return {key: value for key, value in complete.model_dump(mode="json").items() if key not in _WHERE}


def _other(path: Path, refused: list[str]) -> RunError:
    return RunError(
        f"{path}: the run was started with other settings, which cannot change on the way:\n  "
        + "\n  ".join(refused)
        + "\nResume with what the run was started with, or choose another name"
    )


def _check_finished(run_dir: Path, record: RunRecord) -> None:
    """Raise RunError where an exported model without a checkpoint is of other settings than these."""
    file = run_dir / CONFIG_FILE
    written = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else {}
    known = {key: value for key, value in written.items() if key in record.settings}
    changed = [f"{k} {c}" for k, c in differences(known, {k: record.settings[k] for k in known}) if c.was != _NOT_GIVEN]
    if changed:
        raise RunError(
            f"{run_dir}: the run is finished, and there is no checkpoint to continue from with other settings:\n  "
            + "\n  ".join(changed)
            + "\nRun without --resume to start over, or choose another name"
        )


def _check_inputs(cfg: RunConfig, run_dir: Path) -> None:
    own = {(run_dir / name).resolve() for name in (MODEL_DIR, ADAPTER_DIR)}
    for key, use in cfg.models.items():
        if Path(use.config.path).resolve() in own:
            raise ConfigError(
                f"{key}.path={use.config.path} is this run's own export, which it will replace; choose another name"
            )


def _functions(settings: Any, key: str = "") -> Iterator[tuple[str, Path]]:
    """Dotted key and file of each function that settings name as `file.py:function`."""
    settings = _by_name(settings)
    if isinstance(settings, Mapping):
        for name, value in settings.items():
            yield from _functions(value, f"{key}.{name}" if key else name)
    elif isinstance(settings, str) and (file := Path(settings.rpartition(":")[0])).suffix == ".py" and file.is_file():
        yield key, file


def _previous(run_dir: Path, name: str) -> Path:
    return run_dir / f"{name}.previous"


def _is_applied(key: str) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in _APPLIED)


def _by_name(value: Any) -> Any:
    if isinstance(value, list | tuple) and value and all(isinstance(v, Mapping) for v in value):
        return {str(v.get("name", number)): v for number, v in enumerate(value)}
    return value


def _said(value: Any) -> str:
    text = value if value == _NOT_GIVEN else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def _weights(directory: Path) -> str:
    """Hash of a model directory's files, many at a time."""
    files = sorted(p for p in directory.iterdir() if p.suffix in _WEIGHTS and p.is_file() and p.name[0] != ".")
    with ThreadPoolExecutor() as pool:
        hashes = pool.map(_sha256, files)
    together = "".join(f"{file.name} {digest}\n" for file, digest in zip(files, hashes, strict=True))
    return hashlib.sha256(together.encode()).hexdigest()


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _rows(found: Records | int) -> str:
    if isinstance(found, int):
        return f"{found} rows"
    digest = hashlib.sha256()
    for batch in found.records.combine_chunks().to_batches():  # however the rows came in chunks
        digest.update(batch.serialize())
    return f"{len(found.records)} rows, sha256 {digest.hexdigest()[:16]}"
