"""Estimates with their intervals as inline SVG: no script, no network, colours from the page's CSS."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from mmrlhf_ray.algorithms.statistics import Interval

WIDTH, HEIGHT = 480, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 12, 44
_STEPS = 5


@dataclass(frozen=True)
class Point:
    x: float
    y: Interval


@dataclass(frozen=True)
class _Frame:
    """Maps data to the picture."""

    x: tuple[float, float]
    y: tuple[float, float]

    def at(self, x: float, y: float) -> tuple[float, float]:
        across, up = (x - self.x[0]) / (self.x[1] - self.x[0]), (y - self.y[0]) / (self.y[1] - self.y[0])
        return _LEFT + across * (WIDTH - _LEFT - _RIGHT), HEIGHT - _BOTTOM - up * (HEIGHT - _TOP - _BOTTOM)


def interval_chart(title: str, points: Sequence[Point], x_label: str) -> Markup:
    """A <figure> of points with whiskers, joined in the order given, at least one."""
    xs = _ticks(min(p.x for p in points), max(p.x for p in points))
    ys = _ticks(min(p.y.low for p in points), max(p.y.high for p in points))
    frame = _Frame((xs[0], xs[-1]), (ys[0], ys[-1]))
    path = " ".join("{:.1f},{:.1f}".format(*frame.at(p.x, p.y.estimate)) for p in points)
    parts = [*_axes(frame, xs, ys, x_label), f'<polyline class="path" points="{path}"/>']
    for point in points:
        x, y = frame.at(point.x, point.y.estimate)
        top, bottom = (frame.at(point.x, end)[1] for end in (point.y.high, point.y.low))
        said = escape(f"{point.x:g} {x_label}: {_text(point.y)}")
        parts.append(f'<line class="spread" x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}"/>')
        parts.append(f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="4"><title>{said}</title></circle>')
    spoken = "; ".join(f"{p.x:g} {x_label}: {_text(p.y)}" for p in points)
    return Markup(
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(spoken)}">{"".join(parts)}</svg></figure>'
    )


def _text(interval: Interval) -> str:
    return f"{interval.estimate:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def _axes(frame: _Frame, xs: Sequence[float], ys: Sequence[float], x_label: str) -> list[str]:
    parts = []
    for tick in ys:
        (left, y), (right, _) = frame.at(xs[0], tick), frame.at(xs[-1], tick)
        parts.append(f'<line class="grid" x1="{left:.1f}" x2="{right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{left - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in xs:
        x, y = frame.at(tick, ys[0])
        parts.append(f'<text class="tick" x="{x:.1f}" y="{y + 16:.1f}" text-anchor="middle">{tick:g}</text>')
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    parts.append(f'<text class="tick" x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>')
    return parts


def _ticks(low: float, high: float) -> list[float]:
    """Round values that enclose [low, high], steps of 1, 2 or 5 times a power of ten."""
    if low == high:
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / _STEPS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(n * step, 12) for n in range(first, last + 1)]
