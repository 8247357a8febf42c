"""A recipe from its data to its table."""

import json
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mmrlhf_ray.config import DiscreteConfig
from mmrlhf_ray.config.load import load_config
from mmrlhf_ray.discrete.decide import Preferences, decide
from mmrlhf_ray.discrete.files import MODULE_DIR
from mmrlhf_ray.errors import ConfigError
from mmrlhf_ray.scenarios import (
    captioning,
    captioning_scenes,
    driving,
    emotion,
    medical,
    questions,
    questions_scenes,
    service,
    service_calls,
    watching,
)
from mmrlhf_ray.scenarios.cases import PARTS, Case, write_cases
from mmrlhf_ray.scenarios.measures import Decided, Measures, measures, table
from mmrlhf_ray.schema import PROMPT

JOBS = Path("jobs/scenarios")


def nothing_else(*_: object) -> tuple[tuple[str, str], ...]:
    """The table is enough."""
    return ()


@dataclass(frozen=True)
class Scenario:
    """A field, and how its public data set becomes cases."""

    make: Callable[[Path, int], None]
    """Write a small stand-in in the data set's own layout to a directory that is not there; the seed decides."""
    read: Callable[[Path], Iterable[Case]]
    also: Callable[[DiscreteConfig, Mapping[str, Decided], Preferences, Path], Sequence[tuple[str, str]]] = nothing_else
    """(name, figure) of what else is measured; a file next to the table may show more."""
    jobs: tuple[str, ...] = ()
    """Files of jobs/scenarios, each of which starts from the network of the one before; empty = the recipe's own."""


SCENARIOS = {
    "captioning": Scenario(
        captioning_scenes.make, captioning.read, captioning.also, jobs=("captioning-first", "captioning")
    ),
    "driving": Scenario(driving.make, driving.read),
    "emotion": Scenario(emotion.make, emotion.read, emotion.also),
    "medical": Scenario(medical.make, medical.read),
    "questions": Scenario(questions_scenes.make, questions.read, questions.also, jobs=("questions-first", "questions")),
    "service": Scenario(service_calls.make, service.read, service.also, jobs=("service-first", "service")),
    "watching": Scenario(watching.make, watching.read),
}


def run(name: str, out: Path, data: Path | None = None, seed: int = 0, changes: Sequence[str] = ()) -> Measures:
    """Data, records, training with the jobs of `jobs/scenarios`, and the table, which goes to `out`/table.md too.

    data: the public data set, in its own layout; None = a stand-in is made. changes: of every job, as `key=value`.
    Raises ConfigError where `out` or a job file is not as expected, and DataError as the scenario's reader does.
    """
    scenario, began = SCENARIOS[name], time.monotonic()
    if (out / "train").exists():
        raise ConfigError(f"{out}: holds an earlier run of this recipe; remove it or choose another directory")
    jobs = _jobs(scenario.jobs or (name,), out, [f"seed={seed}", *changes])
    if data is None:
        data = out / "public"
        print(f"{name}: making a stand-in in {data}", flush=True)
        scenario.make(data, seed)
    print(f"{name}: reading {data}", flush=True)
    _write(out, name, list(scenario.read(data)), {task for cfg in jobs for task in cfg.tasks})
    found = _measured(jobs[-1], scenario, _trained(jobs), out)
    (out / "table.md").write_text(table(found) + "\n")
    print(f"\n{table(found)}\n\n{name}: {out / 'table.md'}, after {(time.monotonic() - began) / 60:.1f} minutes")
    return found


def _write(out: Path, name: str, cases: Sequence[Case], tasks: Collection[str]) -> None:
    """The records of the jobs' tasks; those of other tasks, for a model that writes, go to `out`/<task>."""
    write_cases(out, name, [case for case in cases if (case.task or name) in tasks])
    for other in sorted({case.task for case in cases} - {"", *tasks}):
        write_cases(out / other, name, [case for case in cases if case.task == other])


def _jobs(names: Sequence[str], out: Path, changes: Sequence[str]) -> list[DiscreteConfig]:
    """With the recipe's records and directory. Raises ConfigError for a file that is not there or does not load."""
    found: list[DiscreteConfig] = []
    for name in names:
        file = JOBS / f"{name}.yaml"
        if not file.is_file():
            raise ConfigError(f"{file}: not found; start the recipe in a clone of the repository")
        tasks = load_config(file, [], DiscreteConfig).tasks
        own = [f"output_dir={out}", *(f"tasks.{task}.{part}.path={out / part}" for task in tasks for part in PARTS)]
        own += [f"warm_start={cfg.run_dir}" for cfg in found[-1:]]
        found.append(load_config(file, [*own, *changes], DiscreteConfig))
    return found


def _trained(jobs: Sequence[DiscreteConfig]) -> Path:
    """The last job's directory."""
    from mmrlhf_ray.pipelines.discrete import job
    from mmrlhf_ray.runtime.session import ray_session

    # One session for several jobs; a single one starts its own, after all of its checks.
    with ray_session() if len(jobs) > 1 else nullcontext():
        return [job.run(cfg) for cfg in jobs][-1]


def _measured(cfg: DiscreteConfig, scenario: Scenario, run_dir: Path, out: Path) -> Measures:
    """Of the job's first task, and what the recipe adds to it."""
    from mmrlhf_ray.discrete.saved import load_net
    from mmrlhf_ray.discrete.start import preferences_of

    _, net = load_net(run_dir / MODULE_DIR)
    preferences = preferences_of(net)
    decided = {task: _decided(cfg, task, preferences, run_dir) for task in cfg.tasks}
    first = next(iter(decided.values()))
    found = measures(first.scores, first.column("answer"), first.column("group"), list(first.cases.actions))
    return replace(found, more=tuple(scenario.also(cfg, decided, preferences, out)))


def _decided(cfg: DiscreteConfig, task: str, preferences: Preferences, run_dir: Path) -> Decided:
    from mmrlhf_ray.data.records.readers import read_records
    from mmrlhf_ray.discrete.tasks import cases_of, wanted

    section = cfg.tasks[task]
    read = read_records(section.heldout, PROMPT, run_dir)
    cases = cases_of(cfg, task, "heldout", read)
    kept = wanted(read, section.record_tasks, f"tasks.{task}.record_tasks").records
    made = decide(cfg, cases, preferences)
    scores = preferences(cases.observations(np.arange(len(cases)), made.shown))[:, : len(cases.actions)]
    return Decided(cases, tuple(json.loads(text) for text in kept.column("extras").to_pylist()), scores, made.asked)
