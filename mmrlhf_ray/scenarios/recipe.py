"""A recipe from its data to its table."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmrlhf_ray.config import DiscreteConfig
from mmrlhf_ray.config.load import load_config
from mmrlhf_ray.discrete.files import MODULE_DIR
from mmrlhf_ray.errors import ConfigError
from mmrlhf_ray.scenarios import driving, medical, watching
from mmrlhf_ray.scenarios.cases import Case, write_cases
from mmrlhf_ray.scenarios.measures import Measures, groups_of, measures, table
from mmrlhf_ray.schema import PROMPT

JOBS = Path("jobs/scenarios")


@dataclass(frozen=True)
class Scenario:
    """A field, and how its public data set becomes cases."""

    make: Callable[[Path, int], None]
    """Write a small stand-in in the data set's own layout to a directory that is not there; the seed decides."""
    read: Callable[[Path], Iterable[Case]]


SCENARIOS = {
    "driving": Scenario(driving.make, driving.read),
    "medical": Scenario(medical.make, medical.read),
    "watching": Scenario(watching.make, watching.read),
}


def run(name: str, out: Path, data: Path | None = None, seed: int = 0, changes: Sequence[str] = ()) -> Measures:
    """Data, records, training with `jobs/scenarios/<name>.yaml`, and the table, which goes to `out`/table.md too.

    data: the public data set, in its own layout; None = a stand-in is made. changes: of the job, as `key=value`.
    Raises ConfigError where `out` or the job file is not as expected, and DataError as the scenario's reader does.
    """
    job, scenario, began = JOBS / f"{name}.yaml", SCENARIOS[name], time.monotonic()
    if not job.is_file():
        raise ConfigError(f"{job}: not found; start the recipe in a clone of the repository")
    if (out / "train").exists():
        raise ConfigError(f"{out}: holds an earlier run of this recipe; remove it or choose another directory")
    paths = [f"tasks.{name}.{part}.path={out / part}" for part in ("train", "heldout")]
    cfg = load_config(job, [*paths, f"output_dir={out}", f"seed={seed}", *changes], DiscreteConfig)
    if data is None:
        data = out / "public"
        print(f"{name}: making a stand-in in {data}", flush=True)
        scenario.make(data, seed)
    print(f"{name}: reading {data}", flush=True)
    write_cases(out, name, list(scenario.read(data)))
    found = _measured(cfg, name, _trained(cfg))
    (out / "table.md").write_text(table(found) + "\n")
    print(f"\n{table(found)}\n\n{name}: {out / 'table.md'}, after {(time.monotonic() - began) / 60:.1f} minutes")
    return found


def _trained(cfg: DiscreteConfig) -> Path:
    from mmrlhf_ray.pipelines.discrete import job

    return job.run(cfg)


def _measured(cfg: DiscreteConfig, task: str, run_dir: Path) -> Measures:
    from mmrlhf_ray.data.records.readers import read_records
    from mmrlhf_ray.discrete.saved import load_net
    from mmrlhf_ray.discrete.start import preferences_of
    from mmrlhf_ray.discrete.tasks import cases_of

    records = read_records(cfg.tasks[task].heldout, PROMPT, run_dir)
    cases = cases_of(cfg, task, "heldout", records)
    _, net = load_net(run_dir / MODULE_DIR)
    scores = preferences_of(net)(cases.observations(np.arange(len(cases))))
    right, groups = groups_of(records.records.column("extras").to_pylist())
    return measures(scores[:, : len(cases.actions)], right, groups, list(cases.actions))
