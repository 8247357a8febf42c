"""The Python API: the jobs of the command, with the same configurations, as functions.

`from mmrlhf_ray import sft, load_config`; see docs/python.md. What a job needs beyond its configuration is imported
when it runs.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mmrlhf_ray.config import (
    EvaluateConfig,
    PPOConfig,
    PreferenceConfig,
    RewardModelConfig,
    RunConfig,
    SFTConfig,
    read_job_kind,
)
from mmrlhf_ray.config.base import MODEL_DIR
from mmrlhf_ray.config.load import load_config as load_kind

C = TypeVar("C", bound=RunConfig)
Given = Path | str | Mapping[str, Any]
"""A job file, or its keys."""
_REPORTS = ("report.html", "evaluation.json")


@dataclass(frozen=True)
class JobResult:
    """What a job has made."""

    run_dir: Path
    """The run's directory on this machine."""
    model: Path | None
    """The trained model in Hugging Face format; None where the job trains none."""
    figures: Mapping[str, float]
    """The last value of each metric; of an evaluation its figures, by dotted keys."""
    report: Path | None
    """A page or file with the results; None where the job writes none."""

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The logged steps: `step`, `time` (Unix seconds) and the metrics, None where one was not finite."""
        from mmrlhf_ray.runtime.metrics import read_metrics

        return read_metrics(self.run_dir)


def load_config(config: Given, overrides: Sequence[str] = (), *, root: Path | None = None) -> RunConfig:
    """The configuration of a job file, or of a mapping with the same keys, of the class that its `job:` names.

    `overrides`: `key=value`, as after a file on the command line. Relative paths are taken from `root`, by default the
    current directory. Raises ConfigError with every problem in one message.
    """
    given = _given(config)
    return load_kind(given, overrides, read_job_kind(given).config, root)


def sft(config: SFTConfig | Given, overrides: Sequence[str] = (), *, resume: bool = False) -> JobResult:
    """Fine-tune a model on demonstrations.

    `config`: made by load_config() or by hand, a file, or its keys. `overrides`: keys to replace, `key=value`.
    `resume`: continue from the newest complete checkpoint. Raises UserError for what its message says how to fix,
    before Ray starts wherever that is possible, and RunFailed where `resume` may help.
    """
    cfg = _ready(SFTConfig, config, overrides)
    from mmrlhf_ray.pipelines.supervised.sft import run

    return _result(run(cfg, resume))


def reward_model(
    config: RewardModelConfig | Given, overrides: Sequence[str] = (), *, resume: bool = False
) -> JobResult:
    """Train a reward model on preferences, rankings or ratings. Arguments and errors as of sft()."""
    cfg = _ready(RewardModelConfig, config, overrides)
    from mmrlhf_ray.pipelines.supervised.reward_model import run

    return _result(run(cfg, resume))


def preference(config: PreferenceConfig | Given, overrides: Sequence[str] = (), *, resume: bool = False) -> JobResult:
    """Train a policy on preferences: DPO and its relatives. Arguments and errors as of sft()."""
    cfg = _ready(PreferenceConfig, config, overrides)
    from mmrlhf_ray.pipelines.preference.job import run

    return _result(run(cfg, resume))


def ppo(config: PPOConfig | Given, overrides: Sequence[str] = (), *, resume: bool = False) -> JobResult:
    """Train a policy online: PPO, GRPO and the other algorithms. Arguments and errors as of sft()."""
    cfg = _ready(PPOConfig, config, overrides)
    from mmrlhf_ray.pipelines.ppo.job import run

    return _result(run(cfg, resume))


def evaluate(config: EvaluateConfig | Given, overrides: Sequence[str] = ()) -> JobResult:
    """Answer held-out prompts and score the responses. Arguments and errors as of sft()."""
    cfg = _ready(EvaluateConfig, config, overrides)
    from mmrlhf_ray.pipelines.evaluate.job import SUMMARY_FILE, run

    run_dir = run(cfg)
    summary = json.loads((run_dir / SUMMARY_FILE).read_text(encoding="utf-8"))
    return JobResult(run_dir, None, dict(_figures(summary)), _report(run_dir))


def _given(config: Given) -> Path | Mapping[str, Any]:
    return Path(config) if isinstance(config, str) else config


def _ready(kind: type[C], config: C | Given, overrides: Sequence[str]) -> C:
    """The configuration with all that it leaves to the models and the machine filled in."""
    if isinstance(config, RunConfig):
        if not isinstance(config, kind):
            raise TypeError(f"expected a {kind.__name__}, got a {type(config).__name__}")
        cfg: C = load_kind(config.model_dump(mode="json"), overrides, kind) if overrides else config
    else:
        cfg = load_kind(_given(config), overrides, kind)
    from mmrlhf_ray.planning.auto import placed  # imports torch, which a wrong configuration need not wait for
    from mmrlhf_ray.planning.settle import settled

    return placed(settled(cfg))


def _result(run_dir: Path) -> JobResult:
    from mmrlhf_ray.runtime.metrics import read_metrics

    last = {name: value for row in read_metrics(run_dir) for name, value in row.items() if value is not None}
    figures = {name: value for name, value in last.items() if name not in ("step", "time")}
    model = run_dir / MODEL_DIR
    return JobResult(run_dir, model if model.is_dir() else None, figures, _report(run_dir))


def _report(run_dir: Path) -> Path | None:
    return next((run_dir / name for name in _REPORTS if (run_dir / name).is_file()), None)


def _figures(summary: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for key, value in summary.items():
        if isinstance(value, Mapping):
            yield from _figures(value, f"{prefix}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield prefix + key, float(value)
