"""Parts that all charts share: a frame that maps data to the picture, ticks and axes, whiskers, the figure around them.

Inline SVG: no script, no network, colours from the page's CSS. Classes: chart, grid, axis, tick, label, spread, dot.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from mmrlhf_ray.algorithms.statistics import Interval


@dataclass(frozen=True)
class Frame:
    """Maps data to the picture; lengths are in its units."""

    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int
    """Margins, in which ticks and labels stand."""
    x: tuple[float, float]
    """Range of the data from the left margin to the right one."""
    y: tuple[float, float]

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Place of a point in the picture."""
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return (
            self.left + across * (self.width - self.left - self.right),
            self.height - self.bottom - up * (self.height - self.top - self.bottom),
        )

    def line(self, kind: str, start: tuple[float, float], end: tuple[float, float]) -> str:
        """A straight line between two points of the data."""
        (x1, y1), (x2, y2) = self.at(*start), self.at(*end)
        return f'<line class="{kind}" x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}"/>'


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


def axes(frame: Frame, x_ticks: Sequence[float], y_ticks: Sequence[float], x_label: str) -> list[str]:
    """Lines across at the ticks of y, and what stands in the margins; ticks outside the frame are left out."""
    parts = []
    for value in y_ticks:
        if frame.y[0] <= value <= frame.y[1]:
            left, y = frame.at(frame.x[0], value)
            parts.append(frame.line("grid", (frame.x[0], value), (frame.x[1], value)))
            parts.append(_text("tick", left - 6, y + 4, tick_text(value), "end"))
    bottom = frame.height - frame.bottom
    for value in x_ticks:
        if frame.x[0] <= value <= frame.x[1]:
            parts.append(_text("tick", frame.at(value, frame.y[0])[0], bottom + 15, tick_text(value), "middle"))
    parts.append(frame.line("axis", (frame.x[0], frame.y[0]), (frame.x[1], frame.y[0])))
    middle = (frame.left + frame.width - frame.right) / 2
    parts.append(_text("label", middle, frame.height - 4, x_label, "middle"))
    return parts


def whisker(frame: Frame, x: float, y: Interval, said: str) -> list[str]:
    """An estimate with its interval; `said` is what the browser shows where it is pointed at."""
    across, up = frame.at(x, y.estimate)
    return [
        frame.line("spread", (x, y.high), (x, y.low)),
        f'<circle class="dot" cx="{across:.1f}" cy="{up:.1f}" r="4"><title>{escape(said)}</title></circle>',
    ]


def figure(frame: Frame, title: str, spoken: str, parts: Sequence[str], below: str = "") -> Markup:
    """The chart as a <figure> with a caption; `spoken` is the chart for screen readers."""
    return Markup(
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption>'
        f'<svg viewBox="0 0 {frame.width} {frame.height}" role="img" aria-label="{escape(spoken)}">'
        f"{''.join(parts)}</svg>{below}</figure>"
    )


def _text(kind: str, x: float, y: float, text: str, anchor: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
