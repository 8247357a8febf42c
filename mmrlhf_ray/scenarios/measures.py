"""What a recipe's policy is worth on cases it never saw: also where it would do harm, and to whom."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import softmax
from sklearn.metrics import precision_recall_fscore_support, roc_auc_score

from mmrlhf_ray.algorithms.calibration import calibration
from mmrlhf_ray.algorithms.statistics import Interval, wilson_interval
from mmrlhf_ray.discrete.cases import Cases


@dataclass(frozen=True)
class Measures:
    """On held-out cases."""

    cases: int
    accuracy: Interval
    auroc: float
    """One class against the others, the mean over classes (Hanley & McNeil 1982); NaN where only one class is there."""
    calibration_error: float
    """Expected, of the probability of what was decided."""
    classes: tuple[tuple[str, float, float, float], ...]
    """(class, precision, recall, F1) of each."""
    groups: tuple[tuple[str, int, Interval], ...]
    """(group, cases, accuracy), the worst first."""
    more: tuple[tuple[str, str], ...] = ()
    """(name, figure) of what one recipe alone measures."""


@dataclass(frozen=True)
class Decided:
    """The held-out cases of a task, and what the policy decides about them."""

    cases: Cases
    extras: tuple[Mapping[str, Any], ...]
    scores: np.ndarray
    """float [n, decisions]: log-probabilities, or logits, given all that was shown when it was decided."""
    asked: np.ndarray
    """int64 [n]: modalities that were asked for."""

    def column(self, key: str) -> list[str]:
        """Of the extras."""
        return [str(row[key]) for row in self.extras]


def measures(scores: np.ndarray, right: Sequence[str], groups: Sequence[str], classes: Sequence[str]) -> Measures:
    """scores: log-probabilities, or logits, float [n, classes] in the order of `classes`; right, groups: [n]."""
    probabilities = softmax(scores.astype(np.float64), axis=1)
    decided, truth = probabilities.argmax(1), np.array([classes.index(name) for name in right])
    hit = decided == truth
    precision, recall, f1, _ = precision_recall_fscore_support(
        truth, decided, labels=range(len(classes)), zero_division=0.0
    )
    of_group = [(name, hit[[group == name for group in groups]]) for name in sorted(set(groups))]
    shares = [(name, len(hits), wilson_interval(int(hits.sum()), len(hits))) for name, hits in of_group]
    return Measures(
        cases=len(hit),
        accuracy=wilson_interval(int(hit.sum()), len(hit)),
        auroc=_auroc(probabilities, truth),
        calibration_error=calibration(probabilities.max(1), hit).expected_calibration_error,
        classes=tuple(zip(classes, precision.tolist(), recall.tolist(), f1.tolist(), strict=True)),
        groups=tuple(sorted(shares, key=lambda share: share[2].estimate)),
    )


def table(found: Measures) -> str:
    """As Markdown."""
    lines = [
        f"| held out, {found.cases} cases | precision | recall | F1 |",
        "|---|---|---|---|",
        *(f"| {name} | {p:.3f} | {r:.3f} | {f:.3f} |" for name, p, r, f in found.classes),
        "",
        "| | |",
        "|---|---|",
        f"| accuracy | {found.accuracy} |",
        f"| AUROC, mean over classes | {found.auroc:.3f} |",
        f"| expected calibration error | {found.calibration_error:.3f} |",
        *(f"| accuracy, {name} ({count}) | {share} |" for name, count, share in found.groups),
        *(f"| {name} | {figure} |" for name, figure in found.more),
    ]
    return "\n".join(lines)


def _auroc(probabilities: np.ndarray, truth: np.ndarray) -> float:
    each = [
        roc_auc_score(truth == number, probabilities[:, number])
        for number in range(probabilities.shape[1])
        if 0 < (truth == number).sum() < len(truth)
    ]
    return float(np.mean(each)) if each else float("nan")
