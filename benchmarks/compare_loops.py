"""`python -m benchmarks.compare_loops RUN …`: ways to choose questions, side by side, from finished loops.

Runs with the same seed are compared with the one that chose at random: they start from the same policy, with the same
prompts, annotators and held-out prompts. Prints a table in Markdown, votes in brackets.
"""

import sys
from argparse import ArgumentParser
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import yaml

from mmrlhf_ray.algorithms.statistics import Interval
from mmrlhf_ray.config.rounds import RoundPaths
from mmrlhf_ray.pipelines.iterate.metric import gain, kept_primary
from mmrlhf_ray.pipelines.iterate.report import read_summary, signed_text
from mmrlhf_ray.pipelines.run_dir import CONFIG_FILE

BASELINE = "random"


@dataclass(frozen=True)
class Curve:
    """One loop."""

    selection: str
    seed: int
    votes: tuple[int, ...]
    """Of all rounds so far, by round; 0 before the first."""
    primary: tuple[float, ...]
    """Mean primary reward, by round."""
    last: Mapping[str, float]
    """Held-out prompt → primary reward after the last round."""


def read_curve(run_dir: Path) -> Curve:
    """Of a loop with `evaluate.rewards`, whose rounds compare."""
    config = yaml.safe_load((run_dir / CONFIG_FILE).read_text(encoding="utf-8"))
    rounds = read_summary(run_dir)["rounds"]
    return Curve(
        selection=config["ask"]["selection"],
        seed=config["seed"],
        votes=tuple(r["votes"] for r in rounds),
        primary=tuple(r["primary"]["estimate"] for r in rounds),
        last=kept_primary(RoundPaths(run_dir, len(rounds) - 1)),
    )


def votes_to_reach(curve: Curve, target: float) -> float | None:
    """Votes at which the curve, straight between rounds, first reaches `target`; None where it never does."""
    if curve.primary[0] >= target:
        return 0.0
    points = list(zip(curve.votes, curve.primary, strict=True))
    for (votes, low), (more, high) in pairwise(points):
        if high >= target:
            return votes + (more - votes) * (target - low) / (high - low)
    return None


@dataclass(frozen=True)
class Row:
    """One selection, over its seeds."""

    selection: str
    seeds: int
    primary: tuple[float, ...]
    """Mean over the seeds, by round."""
    asked: tuple[float, ...]
    """Votes of all rounds so far, mean over the seeds, by round: questions can run out."""
    beside: tuple[Interval, ...]
    """Last primary reward − that of the random run, by seed: 95 % over the held-out prompts."""
    votes: tuple[float | None, ...]
    """To the random run's last reward, by seed."""


def compare(curves: Sequence[Curve]) -> list[Row]:
    """A row for each selection. Raises ValueError for a seed without a random run, and for runs of different length."""
    by_selection: dict[str, list[Curve]] = defaultdict(list)
    for curve in sorted(curves, key=lambda c: (c.selection != BASELINE, c.selection, c.seed)):
        by_selection[curve.selection].append(curve)
    random = {curve.seed: curve for curve in by_selection[BASELINE]}
    rows = []
    for selection, own in by_selection.items():
        for curve in own:
            if curve.seed not in random:
                raise ValueError(
                    f"{selection}, seed {curve.seed}: no random run has this seed; give one, or leave it out"
                )
            if len(curve.votes) != len(random[curve.seed].votes):
                raise ValueError(
                    f"{selection}, seed {curve.seed}: {len(curve.votes) - 1} rounds, "
                    f"random {len(random[curve.seed].votes) - 1}; let both run equally long (stop.patience)"
                )
        rows.append(
            Row(
                selection=selection,
                seeds=len(own),
                primary=tuple(np.mean([curve.primary for curve in own], axis=0).tolist()),
                asked=tuple(np.mean([curve.votes for curve in own], axis=0).tolist()),
                beside=tuple(gain(dict(random[c.seed].last), dict(c.last)) for c in own),
                votes=tuple(votes_to_reach(c, random[c.seed].primary[-1]) for c in own),
            )
        )
    return rows


def markdown(rows: Sequence[Row]) -> str:
    """The table."""
    rounds = [f"round {number}" for number in range(1, len(rows[0].primary))]
    heads = ["selection", "seeds", "start", *rounds, "last − random's, by seed", "votes to random's last, by seed"]
    lines = [heads, ["---"] * len(heads)]
    for row in rows:
        beside, reached = "; ".join(map(signed_text, row.beside)), "; ".join(map(_votes, row.votes))
        own = row.selection == BASELINE
        means = [f"{reward:.3f} ({votes:,.0f})" for reward, votes in zip(row.primary, row.asked, strict=True)][1:]
        start = f"{row.primary[0]:.3f}"
        lines.append([f"`{row.selection}`", str(row.seeds), start, *means, *(["–", "–"] if own else [beside, reached])])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _votes(count: float | None) -> str:
    return "never" if count is None else f"{count:,.0f}"


def main() -> None:
    """Print the table."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    curves = [read_curve(run_dir) for run_dir in parser.parse_args().runs]
    try:
        print(markdown(compare(curves)))
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
