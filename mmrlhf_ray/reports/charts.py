"""Small line charts.

Classes of the page's CSS that they use, beyond those of axes.py: line, s0 … s3, end, rule, legend.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from mmrlhf_ray.reports.axes import Frame, axes, figure, ticks

_MAX_POINTS = 240  # more than the chart has room for: neighbours are averaged


@dataclass(frozen=True)
class Series:
    """One line. Points with a y of None or not finite break it."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]


def line_chart(title: str, series: Sequence[Series], x_label: str, rule: float | None = None) -> Markup:
    """A chart as a <figure> with a caption, a legend for several lines, and the figures as text for screen readers.

    rule: a y value marked by a dashed line, such as a target. Raises ValueError where no series has a finite point.
    """
    cleaned = [(one.name, _thin(_finite(one))) for one in series]
    points = [point for _, runs in cleaned for run in runs for point in run]
    if not points:
        raise ValueError(f"chart {title!r}: no finite point in series {[one.name for one in series]}")
    x_ticks = ticks(min(x for x, _ in points), max(x for x, _ in points))
    ys = [y for _, y in points] + ([] if rule is None else [rule])
    y_ticks = ticks(min(ys), max(ys))
    x = (min(x for x, _ in points), max(x_ticks[-1], *(x for x, _ in points)))
    if x[0] == x[1]:
        x = (x_ticks[0], x_ticks[-1])
    frame = Frame(360, 220, left=48, right=12, top=12, bottom=36, x=x, y=(y_ticks[0], y_ticks[-1]))
    parts = axes(frame, x_ticks, y_ticks, x_label)
    if rule is not None:
        parts.append(frame.line("rule", (frame.x[0], rule), (frame.x[1], rule)))
    for index, (name, runs) in enumerate(cleaned):
        parts += _line(frame, index, name if len(cleaned) > 1 else "", runs, x_label)
    return figure(frame, title, _spoken(title, cleaned, x_label), parts, _legend(cleaned))


def _finite(series: Series) -> list[list[tuple[float, float]]]:
    """Unbroken runs of finite points."""
    runs: list[list[tuple[float, float]]] = [[]]
    for x, y in zip(series.x, series.y, strict=True):
        if y is not None and math.isfinite(y) and math.isfinite(x):
            runs[-1].append((float(x), float(y)))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _thin(runs: list[list[tuple[float, float]]]) -> list[list[tuple[float, float]]]:
    width = math.ceil(sum(map(len, runs)) / _MAX_POINTS)
    if width <= 1:
        return runs
    thinned = []
    for run in runs:
        groups = [run[i : i + width] for i in range(0, len(run), width)]
        thinned.append([(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups])
    return thinned


def _line(frame: Frame, index: int, name: str, runs: list[list[tuple[float, float]]], x_label: str) -> list[str]:
    parts = []
    for run in runs:
        places = [frame.at(x, y) for x, y in run]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline class="line s{index}" points="{path}"/>')
        for (px, py), (x, y) in zip(places, run, strict=True):
            # Invisible until pointed at; the title is the browser's own tooltip.
            said = escape(f"{name} {x_label} {x:g}: {y:.4g}".strip())
            parts.append(
                f'<circle class="dot s{index}" cx="{px:.1f}" cy="{py:.1f}" r="4"><title>{said}</title></circle>'
            )
    if runs:
        x, y = frame.at(*runs[-1][-1])
        parts.append(f'<circle class="end s{index}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>')
    return parts


def _legend(cleaned: Sequence[tuple[str, list[list[tuple[float, float]]]]]) -> str:
    if len(cleaned) < 2:
        return ""
    items = "".join(f'<li class="s{i}">{escape(name)}</li>' for i, (name, _) in enumerate(cleaned))
    return f'<ul class="legend" aria-hidden="true">{items}</ul>'


def _spoken(title: str, cleaned: Sequence[tuple[str, list[list[tuple[float, float]]]]], x_label: str) -> str:
    said = [f"Line chart: {title}."]
    for name, runs in cleaned:
        if runs:
            (x0, y0), (x1, y1) = runs[0][0], runs[-1][-1]
            ys = [y for run in runs for _, y in run]
            said.append(
                f"{name}: {y0:.4g} at {x_label} {x0:g}, {y1:.4g} at {x_label} {x1:g}, "
                f"lowest {min(ys):.4g}, highest {max(ys):.4g}."
            )
    return " ".join(said)
