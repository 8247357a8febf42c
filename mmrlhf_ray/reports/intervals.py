"""Estimates with their intervals as a chart."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from mmrlhf_ray.algorithms.statistics import Interval
from mmrlhf_ray.reports.axes import Frame, axes, figure, ticks, whisker


@dataclass(frozen=True)
class Point:
    x: float
    y: Interval


def interval_chart(title: str, points: Sequence[Point], x_label: str) -> Markup:
    """A <figure> of points with whiskers, joined in the order given, at least one."""
    xs = ticks(min(p.x for p in points), max(p.x for p in points))
    ys = ticks(min(p.y.low for p in points), max(p.y.high for p in points))
    frame = Frame(480, 300, left=56, right=16, top=12, bottom=44, x=(xs[0], xs[-1]), y=(ys[0], ys[-1]))
    path = " ".join("{:.1f},{:.1f}".format(*frame.at(p.x, p.y.estimate)) for p in points)
    parts = [*axes(frame, xs, ys, x_label), f'<polyline class="path" points="{path}"/>']
    said = [f"{p.x:g} {x_label}: {p.y}" for p in points]
    for point, text in zip(points, said, strict=True):
        parts += whisker(frame, point.x, point.y, text)
    return figure(frame, title, "; ".join(said), parts)
