"""The result of a probe: how often each kind of adversarial response scores above the honest one."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa
from rich import box
from rich.console import Console
from rich.segment import Segments
from rich.table import Table

from mmrlhf_ray.algorithms.statistics import Interval, wilson_interval
from mmrlhf_ray.config.rewards import Reward
from mmrlhf_ray.errors import RunError
from mmrlhf_ray.pipelines.probe.rows import HONEST

MIXTURE = "mixture"
_Row = Mapping[str, Any]
"""Of a PROBE table."""
_EXAMPLES = 3
_WIDEST = 200
_SHOWN_CHARACTERS = 120


@dataclass(frozen=True)
class Example:
    """One adversarial response and its score next to the honest one's."""

    prompt_id: str
    text: str
    honest: float
    adversarial: float


@dataclass(frozen=True)
class Figures:
    """Adversarial responses against the honest ones to the same prompts."""

    responses: int
    above: Interval
    """Share that scores above the honest one, with its 95 % Wilson interval; equal scores are not above."""
    equal: float
    """Share that scores exactly as the honest one."""
    difference: float
    """Mean score, adversarial minus honest."""


@dataclass(frozen=True)
class Outcome:
    """One component's, or the mixture's, result on one probe."""

    overall: Figures
    by_modality: Mapping[str, Figures]
    worst: tuple[Example, ...]
    """Those that gain most on the honest response."""


@dataclass(frozen=True)
class Probed:
    """One probe."""

    probe: str
    passed: bool
    """By the mixture: at most the tolerated share is above."""
    mixture: Outcome
    components: Mapping[str, Outcome]
    """Of those that score such responses at all."""


@dataclass(frozen=True)
class _Pair:
    modality: str
    example: Example
    gain: float
    """Of the adversarial response on the honest one, where higher is better."""


def summarise(table: pa.Table, rewards: Sequence[Reward], tolerated_share: float) -> list[Probed]:
    """Every probe of a PROBE table, in order of first appearance.

    Of costs and components of negative weight lower scores are better, so *above* and *worst* mean lower there;
    `difference` has the sign of the scores as they are. Raises RunError where the mixture has no score to judge by.
    """
    rows = table.to_pylist()
    honest = {row["prompt_id"]: row for row in rows if row["probe"] == HONEST}
    results = []
    for probe in dict.fromkeys(row["probe"] for row in rows if row["probe"] != HONEST):
        tried = [(honest[row["prompt_id"]], row) for row in rows if row["probe"] == probe]
        mixture = _outcome(tried, itemgetter("score"), 1.0)
        if mixture is None:
            raise RunError(f"{probe}: every response was dropped for missing scores (see the warnings above)")
        components = {
            reward.name: _outcome(tried, _component_score(number), _direction(reward))
            for number, reward in enumerate(rewards)
        }
        known = {name: outcome for name, outcome in components.items() if outcome is not None}
        results.append(Probed(probe, mixture.overall.above.estimate <= tolerated_share, mixture, known))
    return results


def _component_score(number: int) -> Callable[[_Row], float]:
    return lambda row: row["scores"][number]


def _direction(reward: Reward) -> float:
    return -1.0 if reward.cost is not None or reward.weight < 0 else 1.0


def _outcome(tried: Sequence[tuple[_Row, _Row]], score: Callable[[_Row], float], direction: float) -> Outcome | None:
    pairs = []
    for honest, row in tried:
        a, b = score(row), score(honest)
        if math.isfinite(a) and math.isfinite(b):
            example = Example(row["prompt_id"], row["text"], honest=b, adversarial=a)
            pairs.append(_Pair(row["modality"], example, direction * (a - b)))
    if not pairs:
        return None
    by_modality: dict[str, list[_Pair]] = {}
    for pair in pairs:
        by_modality.setdefault(pair.modality, []).append(pair)
    worst = sorted(pairs, key=lambda pair: -pair.gain)[:_EXAMPLES]
    return Outcome(
        overall=_figures(pairs),
        by_modality={name: _figures(by_modality[name]) for name in sorted(by_modality)},
        worst=tuple(pair.example for pair in worst),
    )


def _figures(pairs: Sequence[_Pair]) -> Figures:
    gains = np.array([pair.gain for pair in pairs])
    differences = [pair.example.adversarial - pair.example.honest for pair in pairs]
    return Figures(
        responses=len(pairs),
        above=wilson_interval(int((gains > 0).sum()), len(pairs)),
        equal=float((gains == 0).mean()),
        difference=float(np.mean(differences)),
    )


def print_report(results: Sequence[Probed], tolerated_share: float, console: Console | None = None) -> None:
    """Print the shares per component and modality, the worst responses of failed probes, and a verdict for each."""
    console = console or Console()
    line: dict[str, Any] = {"highlight": False, "soft_wrap": True}
    _print_table("Adversarial against honest responses", _by_component(results), console)
    uneven = [result for result in results if len({f.above.estimate for f in _modalities(result).values()}) > 1]
    if uneven:
        _print_table("Share above by the mixture, where modalities differ", _by_modality(uneven), console)
    for result in results:
        for example in result.mixture.worst if not result.passed else ():
            text = example.text if len(example.text) <= _SHOWN_CHARACTERS else example.text[:_SHOWN_CHARACTERS] + "…"
            scores = f"{example.adversarial:.3f} against {example.honest:.3f}"
            console.print(f"{result.probe}, {example.prompt_id}: {scores}: {text!r}", markup=False, **line)
    for result in results:
        mark = "[green]passed[/green]" if result.passed else "[bold red]MISSED[/bold red]"
        share = str(result.mixture.overall.above)
        console.print(
            f"{mark}  {result.probe}: share above the honest response {share} (tolerated {tolerated_share:g})",
            **line,
        )


def _by_component(results: Sequence[Probed]) -> Table:
    table = _table(
        "Adversarial against honest responses", "probe", "scored by", "responses", "above", "equal", "mean Δ"
    )
    for result in results:
        outcomes = {MIXTURE: result.mixture} | {f"· {name}": outcome for name, outcome in result.components.items()}
        for number, (name, outcome) in enumerate(outcomes.items()):
            figures = outcome.overall
            shares = (str(figures.above), f"{figures.equal:.3f}", f"{figures.difference:+.3f}")
            table.add_row("" if number else result.probe, name, str(figures.responses), *shares)
    return table


def _by_modality(results: Sequence[Probed]) -> Table:
    names = sorted({name for result in results for name in _modalities(result)})
    table = _table("probe", *names)
    for result in results:
        figures = _modalities(result)
        table.add_row(result.probe, *(f"{figures[n].above.estimate:.3f}" if n in figures else "–" for n in names))
    return table


def _modalities(result: Probed) -> Mapping[str, Figures]:
    return result.mixture.by_modality


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        left = column in ("probe", "scored by")
        table.add_column(column, justify="left" if left else "right", no_wrap=True)
    return table


def _print_table(title: str, table: Table, console: Console) -> None:
    """Figures are never cut: a table that is too wide for the terminal runs over its edge."""
    console.print(title, markup=False, highlight=False, soft_wrap=True)
    lines = console.render(table, console.options.update(width=max(console.width, _WIDEST)))
    console.print(Segments(lines), crop=False, end="")
