"""A reliability diagram as inline SVG: no script, no network, colours from the page's CSS."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from mmrlhf_ray.algorithms.calibration import CalibrationBin
from mmrlhf_ray.algorithms.statistics import Interval, wilson_interval

SIDE = 320
_LEFT, _BOTTOM, _PAD = 44, 40, 10
_LOW = 0.5  # of the preferred response's probability


@dataclass(frozen=True)
class _Frame:
    """Maps confidence and share of right pairs to the picture."""

    floor: float
    """Lowest share that is shown."""

    def at(self, confidence: float, right: float) -> tuple[float, float]:
        across, up = (confidence - _LOW) / (1.0 - _LOW), (right - self.floor) / (1.0 - self.floor)
        return _LEFT + across * (SIDE - _LEFT - _PAD), SIDE - _BOTTOM - up * (SIDE - _BOTTOM - _PAD)


def reliability_chart(bins: Sequence[CalibrationBin]) -> Markup:
    """Confidence against the share of pairs in which the model is right, with 95 % Wilson intervals, as a <figure>.

    On the diagonal the model is as often right as it says.
    """
    frame = _Frame(min(_LOW, *(b.right for b in bins), *(_interval(b).low for b in bins)))
    parts = _axes(frame)
    for one in bins:
        x, y = frame.at(one.predicted, one.right)
        top, bottom = (frame.at(one.predicted, end)[1] for end in (_interval(one).high, _interval(one).low))
        said = escape(f"{one.count} pairs, confidence {one.predicted:.3f}, right {one.right:.3f}")
        parts.append(f'<line class="spread" x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}"/>')
        parts.append(f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="4"><title>{said}</title></circle>')
    spoken = "; ".join(f"{b.count} pairs at confidence {b.predicted:.2f}: right in {b.right:.2f}" for b in bins)
    return Markup(
        '<figure class="chart"><figcaption>Reliability: share of pairs in which the model is right, by its '
        f'confidence</figcaption><svg viewBox="0 0 {SIDE} {SIDE}" role="img" aria-label="{escape(spoken)}">'
        f"{''.join(parts)}</svg></figure>"
    )


def _interval(one: CalibrationBin) -> Interval:
    return wilson_interval(one.right * one.count, one.count)


def _axes(frame: _Frame) -> list[str]:
    parts = []
    for tick in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0):
        x, y = frame.at(tick, frame.floor)
        parts.append(f'<text class="tick" x="{x:.1f}" y="{y + 16:.1f}" text-anchor="middle">{tick:g}</text>')
    for tick in (tenth / 10 for tenth in range(11)):
        if tick >= frame.floor:
            (left, y), (right, _) = frame.at(_LOW, tick), frame.at(1.0, tick)
            parts.append(f'<line class="grid" x1="{left:.1f}" x2="{right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(f'<text class="tick" x="{left - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    (x0, y0), (x1, y1) = frame.at(_LOW, _LOW), frame.at(1.0, 1.0)
    parts.append(f'<line class="rule" x1="{x0:.1f}" x2="{x1:.1f}" y1="{y0:.1f}" y2="{y1:.1f}"/>')
    middle = (_LEFT + SIDE - _PAD) / 2
    parts.append(f'<text class="tick" x="{middle}" y="{SIDE - 6}" text-anchor="middle">confidence</text>')
    return parts
