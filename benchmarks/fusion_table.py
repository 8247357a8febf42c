"""Every fusion with every modality missing: `python -m benchmarks.fusion_table OUT`.

Nine runs of one job, {concat, weighted, attention} × {early, late, hybrid}; each is measured with both modalities, with
the first missing and with the second missing. Writes OUT/fusion.json and OUT/fusion.md. Finished runs are not repeated.
"""

import json
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.discrete_runs import Outcome, outcome_of, table
from mmrlhf_ray.config import DiscreteConfig, load_config
from mmrlhf_ray.runtime.session import ray_session

KINDS = ("concat", "weighted", "attention")
STAGES = ("early", "late", "hybrid")


def fusion_table(job: Path, out: Path, seed: int, steps: int | None = None) -> str:
    """Run and write; the table as Markdown. `job` must have two modalities."""
    first, second = load_config(job, (), DiscreteConfig).observation.modalities
    changes = {"seed": seed} | ({"steps": steps} if steps else {})
    found: dict[tuple[str, str], Outcome] = {}
    with ray_session():
        for kind in KINDS:
            for stage in STAGES:
                chosen = changes | {"fusion.kind": kind, "fusion.stage": stage}
                found[kind, stage] = outcome_of(job, f"{kind}-{stage}", out, chosen)
    columns = (f"{first} + {second}", second, first)
    rows = [
        [kind, stage, *(f"{outcome.shown[shown]:.3f}" for shown in columns), f"{outcome.seconds:.0f}"]
        for (kind, stage), outcome in found.items()
    ]
    head = ("fusion", "stage", "both", f"{first} missing", f"{second} missing", "training, s")
    text = table(head, rows)
    values = {f"{kind}-{stage}": dict(outcome.shown) for (kind, stage), outcome in found.items()}
    (out / "fusion.json").write_text(json.dumps(values, indent=2), encoding="utf-8")
    (out / "fusion.md").write_text(text + "\n", encoding="utf-8")
    return text


def main(
    out: Annotated[Path, typer.Argument(help="Directory for the runs.")] = Path("runs/fusion-table"),
    job: Annotated[Path, typer.Option(help="Job with two modalities.")] = Path("jobs/discrete-ppo.yaml"),
    seed: Annotated[int, typer.Option(min=0)] = 0,
    steps: Annotated[int | None, typer.Option(min=1, help="Of each run; default: the job's.")] = None,
) -> None:
    """Train nine fusions and print their table."""
    print(fusion_table(job, out, seed, steps))


if __name__ == "__main__":
    typer.run(main)
