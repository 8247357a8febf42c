"""Agreement and quality as tables for the terminal."""

from collections.abc import Sequence

from rich.table import Table

from mmrlhf_ray.algorithms.statistics import Interval
from mmrlhf_ray.feedback.labels.agreement import Agreement, PairAgreement
from mmrlhf_ray.feedback.labels.bias import Bias, leans
from mmrlhf_ray.feedback.labels.consensus import Reliability
from mmrlhf_ray.feedback.labels.quality import ENOUGH, AnnotatorQuality


def agreement_table(found: Sequence[Agreement]) -> Table:
    """Krippendorff's α by kind, task and aspect, with the counts."""
    table = Table("kind", "task", "aspect", "α (95 %)", "units", "answers", "annotators", title="Krippendorff's α")
    for row in found:
        alpha = row.undefined if row.alpha is None else _interval(row.alpha)
        table.add_row(row.kind, row.task, row.aspect, alpha, str(row.units), str(row.values), str(row.annotators))
    return table


def pairs_table(overall: PairAgreement, each: Sequence[PairAgreement]) -> Table:
    """Agreement of every two annotators, all of them last."""
    table = Table("annotators", "agreed (95 %)", "comparisons", title="Agreement of two annotators")
    for pair in (*each, overall):
        names = f"{pair.first}, {pair.second}" if pair.first else "all"
        table.add_row(names, _if_enough(pair.agreed, pair.shared), str(pair.shared))
    return table


def quality_table(found: Sequence[AnnotatorQuality], reliability: dict[str, Reliability] | None = None) -> Table:
    """Figures of each annotator. `reliability`: by Dawid–Skene, where it could be estimated."""
    columns = (
        "annotator",
        "votes",
        "gold",
        "n",
        "as the others",
        "n",
        "reliability",
        "median s",
        "fast",
        "left",
        "ties",
    )
    table = Table(*columns, title="Annotators")
    for row in found:
        known = (reliability or {}).get(row.annotator_id)
        table.add_row(
            row.annotator_id,
            str(row.votes),
            _interval(row.gold),
            str(row.gold_votes),
            _if_enough(row.consensus, row.consensus_votes),
            str(row.consensus_votes),
            f"{known.reliability:.2f}" if known else "–",
            f"{row.median_ms / 1000:.1f}" if row.median_ms is not None else "–",
            _share(row.fast),
            _interval(row.left),
            _share(row.ties),
        )
    return table


def bias_table(found: Sequence[Bias]) -> Table:
    """How often the response shown first, and the longer one, is better; * = the interval leaves 0.5 out."""
    columns = ("annotator", "task", "shown first", "n", "longer", "n")
    table = Table(*columns, title="Better is the one shown first, the longer one (0.5 = no bias)")
    for row in found:
        first, longer = (_interval(share) + (" *" if leans(share) else "") for share in (row.first, row.longer))
        votes = str(row.first_votes), str(row.longer_votes)
        table.add_row(row.annotator_id or "all", row.task or "all", first, votes[0], longer, votes[1])
    return table


def _if_enough(interval: Interval | None, counted: int) -> str:
    """Few comparisons look like agreement, or like its lack, by chance."""
    return _interval(interval) if interval is None or counted >= ENOUGH else "too few"


def _share(interval: Interval | None) -> str:
    return "–" if interval is None else f"{interval.estimate:.2f}"


def _interval(interval: Interval | None) -> str:
    return "–" if interval is None else f"{interval:.2f}"
