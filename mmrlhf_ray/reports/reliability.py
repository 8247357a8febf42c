"""A reliability diagram."""

from collections.abc import Sequence

from markupsafe import Markup

from mmrlhf_ray.algorithms.calibration import CalibrationBin
from mmrlhf_ray.algorithms.statistics import wilson_interval
from mmrlhf_ray.reports.axes import Frame, axes, figure, whisker

_LOW = 0.5  # of the preferred response's probability
_TENTHS = [tenth / 10 for tenth in range(11)]


def reliability_chart(bins: Sequence[CalibrationBin]) -> Markup:
    """Confidence against the share of pairs in which the model is right, with 95 % Wilson intervals, as a <figure>.

    On the diagonal the model is as often right as it says.
    """
    intervals = [wilson_interval(b.right * b.count, b.count) for b in bins]
    floor = min(_LOW, *(i.estimate for i in intervals), *(i.low for i in intervals))
    frame = Frame(320, 320, left=44, right=10, top=10, bottom=40, x=(_LOW, 1.0), y=(floor, 1.0))
    parts = [*axes(frame, _TENTHS, _TENTHS, "confidence"), frame.line("rule", (_LOW, _LOW), (1.0, 1.0))]
    for one, interval in zip(bins, intervals, strict=True):
        said = f"{one.count} pairs, confidence {one.predicted:.3f}, right {one.right:.3f}"
        parts += whisker(frame, one.predicted, interval, said)
    spoken = "; ".join(f"{b.count} pairs at confidence {b.predicted:.2f}: right in {b.right:.2f}" for b in bins)
    title = "Reliability: share of pairs in which the model is right, by its confidence"
    return figure(frame, title, spoken, parts)
