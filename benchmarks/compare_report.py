"""The comparison as a table in the terminal, as Markdown, and as a page with curves."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from markupsafe import Markup
from rich import box
from rich.console import Console
from rich.table import Table

from mmrlhf_ray.algorithms.statistics import Interval
from mmrlhf_ray.demo.report import ProxyGold
from mmrlhf_ray.demo.scoring import number
from mmrlhf_ray.reports.charts import Series, line_chart
from mmrlhf_ray.reports.page import page_environment

PAGE = "compare.html"
TABLE = "compare.md"
FIGURES = "compare.json"
COLUMNS = ("run", "gold", "gain on SFT", "better", "accuracy", "grounded", "proxy", "KL", "length", "minutes")


@dataclass(frozen=True)
class Compared:
    """One run on the held-out prompts. Intervals are 95 %; `gain` is paired, prompt by prompt, against SFT."""

    name: str
    gold: Interval
    gain: Interval
    accuracy: float
    grounded: float
    proxy: float
    kl: float
    """Nats per response, to SFT."""
    response_tokens: float
    minutes: float

    @property
    def better(self) -> str:
        """The verdict of the interval."""
        if self.gain.low > 0:
            return "yes"
        return "worse" if self.gain.high < 0 else "no" if self.minutes else ""


@dataclass(frozen=True)
class Curve:
    """A run's training."""

    name: str
    points: Sequence[ProxyGold]
    costs: Sequence[Mapping[str, float]]
    """Per step, metrics of costs and their multipliers."""


def cells(row: Compared) -> tuple[str, ...]:
    """Text for each of COLUMNS."""
    gain = f"{row.gain:+.3f}" if row.minutes else ""
    figures = (number(row.accuracy), number(row.grounded), number(row.proxy, 2), number(row.kl, 2))
    minutes = number(row.minutes, 1) if row.minutes else ""
    return (row.name, str(row.gold), gain, row.better, *figures, number(row.response_tokens, 1), minutes)


def print_rows(rows: Sequence[Compared]) -> None:
    """The table on the terminal."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in COLUMNS:
        table.add_column(column, no_wrap=True, justify="left" if column == COLUMNS[0] else "right")
    for row in rows:
        table.add_row(*cells(row))
    console = Console()
    Console(width=max(console.width, 160)).print(table, crop=False)


def markdown(rows: Sequence[Compared]) -> str:
    """The table for a document."""
    lines = [" | ".join(COLUMNS), " | ".join(["---"] * len(COLUMNS)), *(" | ".join(cells(row)) for row in rows)]
    return "".join(f"| {line} |\n" for line in lines)


def write_page(directory: Path, rows: Sequence[Compared], curves: Sequence[Curve]) -> Path:
    """Write the page, the table and the figures; returns the page."""
    environment = page_environment("benchmarks")
    page = environment.get_template("compare.html.j2").render(
        columns=COLUMNS,
        rows=[cells(row) for row in rows],
        charts=[chart for curve in curves for chart in _charts(curve)],
    )
    for name, text in (
        (TABLE, markdown(rows)),
        (FIGURES, json.dumps([asdict(row) for row in rows], indent=2)),
        (PAGE, page),
    ):
        partial = directory / f".{name}.partial"
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, directory / name)
    return directory / PAGE


def _charts(curve: Curve) -> list[Markup]:
    steps = [point.step for point in curve.points]
    lines = {"reward model (proxy)": [p.proxy for p in curve.points], "gold": [p.gold for p in curve.points]}
    charts = [line_chart(f"{curve.name}: reward", [Series(n, steps, y) for n, y in lines.items()], "step")]
    charts.append(line_chart(f"{curve.name}: KL to SFT", [Series("KL", steps, [p.kl for p in curve.points])], "step"))
    for key in curve.costs[0] if curve.costs else ():
        series = Series(key, range(len(curve.costs)), [row[key] for row in curve.costs])
        charts.append(line_chart(f"{curve.name}: {key.replace('_', ' ')}", [series], "step"))
    return charts
