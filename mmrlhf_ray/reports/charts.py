"""Small line charts as inline SVG: no script, no network, colours from the page's CSS (light and dark).

Classes used: chart, grid, axis, tick, label, line, s0 … s3, dot, end, rule.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 360, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 12, 12, 36
_MAX_POINTS = 240  # more than the chart has room for: neighbours are averaged


@dataclass(frozen=True)
class Series:
    """One line. Points with a y of None or not finite break it."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]


@dataclass(frozen=True)
class _Frame:
    """Maps data to the picture."""

    x: tuple[float, float]
    y: tuple[float, float]

    def at(self, x: float, y: float) -> tuple[float, float]:
        right = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return _LEFT + right * (WIDTH - _LEFT - _RIGHT), HEIGHT - _BOTTOM - up * (HEIGHT - _TOP - _BOTTOM)


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
    frame = _Frame((min(x for x, _ in points), max(x_ticks[-1], *(x for x, _ in points))), (y_ticks[0], y_ticks[-1]))
    if frame.x[0] == frame.x[1]:
        frame = _Frame((x_ticks[0], x_ticks[-1]), frame.y)
    parts = [*_grid(frame, x_ticks, y_ticks, x_label)]
    if rule is not None:
        (left, y), (right, _) = frame.at(frame.x[0], rule), frame.at(frame.x[1], rule)
        parts.append(f'<line class="rule" x1="{left:.1f}" x2="{right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
    for index, (name, runs) in enumerate(cleaned):
        parts += _line(frame, index, name if len(cleaned) > 1 else "", runs, x_label)
    return Markup(
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(_spoken(title, cleaned, x_label))}">'
        f"{''.join(parts)}</svg>{_legend(cleaned)}</figure>"
    )


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round tick values that enclose [low, high], at most about `most` steps of 1, 2 or 5 times a power of ten."""
    if low == high:
        pad = abs(low) * 0.1 or 1.0
        low, high = low - pad, high + pad
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    digits = max(0, 2 - math.floor(math.log10(step)))  # as many as the step needs, however small it is
    return [round(n * step, digits) for n in range(first, last + 1)]


def tick_text(value: float) -> str:
    """Short text of a tick: 1200 as 1.2k, 0.00002 as 2e-05."""
    if abs(value) >= 1000:
        return f"{value / 1000:g}k"
    return f"{value:g}".replace("-", "−")


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


def _grid(frame: _Frame, x_ticks: list[float], y_ticks: list[float], x_label: str) -> list[str]:
    parts = []
    for value in y_ticks:
        left, y = frame.at(frame.x[0], value)
        right, _ = frame.at(frame.x[1], value)
        parts.append(f'<line class="grid" x1="{left:.1f}" x2="{right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(
            f'<text class="tick" x="{left - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">{tick_text(value)}</text>'
        )
    bottom = HEIGHT - _BOTTOM
    for value in x_ticks:
        if not frame.x[0] <= value <= frame.x[1]:
            continue
        x, _ = frame.at(value, frame.y[0])
        parts.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 15}" text-anchor="middle">{tick_text(value)}</text>')
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{bottom}" y2="{bottom}"/>')
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    parts.append(f'<text class="label" x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_label)}</text>')
    return parts


def _line(frame: _Frame, index: int, name: str, runs: list[list[tuple[float, float]]], x_label: str) -> list[str]:
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
