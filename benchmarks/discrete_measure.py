"""The figures of docs/discrete.md: `python -m benchmarks.discrete_measure OUT`.

DQN and PPO on two noisy modalities, on each alone, and with 20 % wrong feedback as the only reward; cloning with few
labels, without and with people's votes. Each with several seeds, mean and 95 % interval. Writes OUT/measure.json and
OUT/measure.md. Finished runs are not repeated.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.discrete_runs import Outcome, outcome_of, over_seeds, table
from mmrlhf_ray.runtime.session import ray_session


@dataclass(frozen=True)
class Variant:
    """A row of the table."""

    name: str
    said: str
    job: str
    """File in the directory of jobs."""
    changes: Mapping[str, Any]
    without: tuple[str, ...] = ()


_ALONE = (("both", "both modalities", ()), ("image", "image alone", ("tone",)), ("tone", "tone alone", ("image",)))
_WRONG = "both, reward is feedback of which 20 % is wrong"
VARIANTS = (
    *(
        Variant(f"{kind}-{name}", f"{kind}: {said}", f"discrete-{kind}.yaml", {}, without)
        for kind in ("dqn", "ppo")
        for name, said, without in _ALONE
    ),
    Variant("dqn-wrong", f"dqn: {_WRONG}", "discrete-feedback.yaml", {}),
    Variant("ppo-wrong", f"ppo: {_WRONG}", "discrete-ppo.yaml", {"reward.labels": 0.0, "reward.human": {"wrong": 0.2}}),
    *(
        Variant(f"clone-{coef:g}", f"clone: few labels, λ = {coef:g}", "discrete-clone.yaml", {"human_loss.coef": coef})
        for coef in (0.0, 1.0)
    ),
)


def measure(jobs: Path, out: Path, seeds: Sequence[int], wanted: Sequence[str] = ()) -> str:
    """Run and write; the table as Markdown. wanted: beginnings of the variants' names, None = all."""
    chosen = [v for v in VARIANTS if not wanted or v.name.startswith(tuple(wanted))]
    found: dict[str, list[Outcome]] = {}
    with ray_session():
        for variant in chosen:
            found[variant.name] = [
                outcome_of(
                    jobs / variant.job,
                    f"{variant.name}-{seed}",
                    out,
                    {**variant.changes, "seed": seed},
                    variant.without,
                )
                for seed in seeds
            ]
    rows, values = [], {}
    for variant in chosen:
        outcomes = found[variant.name]
        score, seconds = over_seeds([o.score for o in outcomes]), [o.seconds for o in outcomes]
        values[variant.name] = {"scores": [o.score for o in outcomes], "mean": asdict(score), "seconds": seconds}
        each = ", ".join(f"{o.score:.3f}" for o in outcomes)
        rows.append([variant.said, str(score), each, f"{max(seconds):.0f}"])
    text = table(("what", "held-out accuracy", "by seed", "training, s at most"), rows)
    (out / "measure.json").write_text(json.dumps(values, indent=2), encoding="utf-8")
    (out / "measure.md").write_text(text + "\n", encoding="utf-8")
    return text


def main(
    out: Annotated[Path, typer.Argument(help="Directory for the runs.")] = Path("runs/discrete-measure"),
    jobs: Annotated[Path, typer.Option(help="Where the job files are.")] = Path("jobs"),
    seeds: Annotated[int, typer.Option(min=1, help="How many.")] = 3,
    only: Annotated[list[str] | None, typer.Option(help="Beginning of a variant's name; may be repeated.")] = None,
) -> None:
    """Measure and print the table."""
    print(measure(jobs, out, range(seeds), only or []))


if __name__ == "__main__":
    typer.run(main)
