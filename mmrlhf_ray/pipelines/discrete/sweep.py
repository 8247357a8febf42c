"""`mmrlhf discrete --sweep`: the same job with other values of some keys, by Ray Tune; the best held-out score wins."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ray import tune
from ray.tune import RunConfig as TuneRunConfig

from mmrlhf_ray.config import DiscreteConfig, save_config
from mmrlhf_ray.config.discrete import Range
from mmrlhf_ray.errors import ConfigError, RunError
from mmrlhf_ray.pipelines.discrete.job import HELDOUT_SCORE
from mmrlhf_ray.pipelines.discrete.job import run as run_job
from mmrlhf_ray.pipelines.run_dir import run_directory
from mmrlhf_ray.runtime.metrics import read_metrics
from mmrlhf_ray.runtime.session import ray_session

BEST_FILE = "best.yaml"
RESULTS_FILE = "sweep.json"


def run(cfg: DiscreteConfig) -> Path:
    """Run `cfg.sweep.samples` jobs; `<run>/best.yaml` is the configuration of the best, `<run>/sweep.json` has all.

    Raises ConfigError where there is nothing to sweep or a key is unknown, RunError where every job failed.
    """
    if cfg.sweep is None:
        raise ConfigError("sweep: required with --sweep; name the keys to try under sweep.parameters")
    if cfg.reward.reward_model is not None:
        raise ConfigError("reward.reward_model: each job of a sweep would start it anew; leave one of them out")
    if cfg.run_url is not None:
        raise ConfigError(f"output_dir={cfg.output_dir}: a sweep writes to a directory; give one")
    space = {key: _domain(values) for key, values in cfg.sweep.parameters.items()}
    varied(cfg, {key: _first(values) for key, values in cfg.sweep.parameters.items()}, "check")
    with run_directory(cfg) as run_dir, ray_session(env=cfg.env):
        where = str(run_dir)
        actors = [role for role in (cfg.env_runners, cfg.learners) for _ in range(role.replicas)]
        needed = [{"CPU": 1.0}, *({"CPU": actor.num_cpus, "GPU": actor.num_gpus} for actor in actors)]

        def trial(parameters: dict[str, Any]) -> None:
            name = tune.get_context().get_trial_id() or "trial"
            job = varied(cfg, parameters, name, where)
            rows = read_metrics(run_job(job))
            tune.report({HELDOUT_SCORE: rows[-1][HELDOUT_SCORE], "run": name})

        tuner = tune.Tuner(
            tune.with_resources(trial, tune.PlacementGroupFactory(needed)),
            param_space=space,
            tune_config=tune.TuneConfig(
                metric=HELDOUT_SCORE, mode="max", num_samples=cfg.sweep.samples,
                max_concurrent_trials=cfg.sweep.concurrent,
            ),
            run_config=TuneRunConfig(name="tune", storage_path=where, verbose=0),
        )  # fmt: skip
        results = tuner.fit()
        return _write(cfg, run_dir, results)


def varied(cfg: DiscreteConfig, parameters: Mapping[str, Any], name: str, output_dir: str = "") -> DiscreteConfig:
    """`cfg` with these dotted keys replaced and no sweep. Raises ConfigError for a key or value that does not fit."""
    values = cfg.model_dump(mode="json") | {"sweep": None, "name": name}
    if output_dir:
        values["output_dir"] = output_dir
    for key, value in parameters.items():
        *path, last = key.split(".")
        section: Any = values
        for part in path:
            section = section.get(part) if isinstance(section, dict) else None
        if not isinstance(section, dict):
            raise ConfigError(f"sweep.parameters.{key}: no such key in this job")
        section[last] = value
    try:
        return DiscreteConfig.model_validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise ConfigError(f"sweep.parameters: {where}: {problem['msg']}, with {dict(parameters)}") from error


def _domain(values: tuple[Any, ...] | Range) -> Any:
    if isinstance(values, Range):
        return (tune.loguniform if values.log else tune.uniform)(values.low, values.high)
    return tune.choice(list(values))


def _first(values: tuple[Any, ...] | Range) -> Any:
    return values.low if isinstance(values, Range) else values[0]


def _write(cfg: DiscreteConfig, run_dir: Path, results: tune.ResultGrid) -> Path:
    tried: list[dict[str, Any]] = []
    for number in range(len(results)):
        result = results[number]
        said = result.metrics or {}
        row = {"parameters": result.config, HELDOUT_SCORE: said.get(HELDOUT_SCORE), "run": said.get("run")}
        tried.append(row | {"error": str(result.error) if result.error else None})
    (run_dir / RESULTS_FILE).write_text(json.dumps(tried, indent=2), encoding="utf-8")
    finished = [r for r in tried if r[HELDOUT_SCORE] is not None]
    if not finished:
        raise RunError(f"sweep: none of {len(tried)} runs finished; the first said: {tried[0]['error']}")
    best = max(finished, key=lambda r: r[HELDOUT_SCORE])
    for row in finished:
        print(f"{HELDOUT_SCORE} {row[HELDOUT_SCORE]:.3f}  {row['parameters']}  {run_dir / row['run']}")
    save_config(varied(cfg, best["parameters"], f"{cfg.name}-best"), run_dir / BEST_FILE)
    return run_dir / BEST_FILE
