"""How far annotators agree: Krippendorff's α by task and aspect, and how often every two of them say the same."""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mmrlhf_ray.algorithms.statistics import Interval, wilson_interval
from mmrlhf_ray.errors import needs
from mmrlhf_ray.feedback.annotations import Annotation, comparisons_of, votes_by_unit

Level = Literal["nominal", "ordinal"]

_RESAMPLES = 1000
_AT_ONCE = 100  # resamples, so that memory stays at 100 × units
_UNIT, _WHO, _VALUE = "task", "worker", "label"  # what crowd-kit calls the columns


@dataclass(frozen=True)
class Label:
    """One value that one annotator gave to one unit (an item, or one response of it)."""

    unit: Hashable
    annotator_id: str
    value: float | str
    """A number where order matters."""


@dataclass(frozen=True)
class Agreement:
    """Krippendorff's α of one kind of question in one task, and what it was counted on."""

    kind: str
    task: str
    aspect: str
    """"" for questions without aspects."""
    level: Level
    alpha: Interval | None
    """95 %, bootstrap over units. None where it is not defined; `undefined` says why."""
    undefined: str
    units: int
    """Items (of rankings and ratings: responses) with two or more values."""
    values: int
    """Given to those."""
    annotators: int
    """Who gave them."""


@dataclass(frozen=True)
class PairAgreement:
    """How often two annotators said the same of two responses: better, worse or equal."""

    first: str
    second: str
    agreed: Interval | None
    """Share with Wilson's 95 % interval; None where they have no comparison in common."""
    shared: int
    """Comparisons that both made."""


def agreement(annotations: Sequence[Annotation], tasks: Mapping[str, str], seed: int = 0) -> list[Agreement]:
    """α of every kind, task and aspect that was answered, sorted. `tasks`: prompt_id → task.

    Choices between two are nominal; ranks and ratings are ordinal, each response of an item a unit. Reviewers'
    decisions, which were made with the votes in sight, do not count. Of several answers of one annotator to one unit
    the last counts. Raises KeyError for a prompt without a task.
    """
    groups: dict[tuple[str, str, str], list[Label]] = defaultdict(list)
    for annotation in by_annotators(annotations):
        for aspect, label in _LABELS.get(annotation.kind, _no_labels)(annotation):
            groups[annotation.kind, tasks[annotation.prompt_id], aspect].append(label)
    return [_agreement(*key, groups[key], seed) for key in sorted(groups)]


def by_annotators(annotations: Iterable[Annotation]) -> list[Annotation]:
    """Without the decisions of reviewers."""
    return [annotation for annotation in annotations if annotation.role != "reviewer"]


def _choice_label(annotation: Annotation) -> list[tuple[str, Label]]:
    better = annotation.ranks.index(1)
    value = f"response {better}" if len(set(annotation.ranks)) == 2 else annotation.choice
    return [("", Label(_unit(annotation), annotation.annotator_id, value))]


def _rank_labels(annotation: Annotation) -> list[tuple[str, Label]]:
    return [
        ("", Label((*_unit(annotation), number), annotation.annotator_id, float(rank)))
        for number, rank in enumerate(annotation.ranks)
    ]


def _rating_labels(annotation: Annotation) -> list[tuple[str, Label]]:
    return [
        (aspect, Label((*_unit(annotation), number), annotation.annotator_id, float(rating)))
        for aspect, ratings in annotation.aspects.items()
        for number, rating in enumerate(ratings)
        if rating is not None
    ]


def _no_labels(annotation: Annotation) -> list[tuple[str, Label]]:
    return []


_LABELS: Mapping[str, Callable[[Annotation], list[tuple[str, Label]]]] = {
    "pair": _choice_label,
    "rank": _rank_labels,
    "rate": _rating_labels,
}
_LEVELS: Mapping[str, Level] = {"pair": "nominal", "rank": "ordinal", "rate": "ordinal"}


def _unit(annotation: Annotation) -> tuple[Hashable, ...]:
    """The same responses in the same order to the same prompt."""
    return annotation.prompt_id, annotation.responses


def _agreement(kind: str, task: str, aspect: str, labels: Sequence[Label], seed: int) -> Agreement:
    level = _LEVELS[kind]
    shared = shared_labels(labels)
    units, values = {label.unit for label in shared}, {label.value for label in shared}
    undefined = "nobody answered the same" if not units else "all answers are equal" if len(values) == 1 else ""
    return Agreement(
        kind=kind,
        task=task,
        aspect=aspect,
        level=level,
        alpha=None if undefined else alpha_interval(shared, level, seed),
        undefined=undefined,
        units=len(units),
        values=len(shared),
        annotators=len({label.annotator_id for label in shared}),
    )


def shared_labels(labels: Iterable[Label]) -> list[Label]:
    """The last value of each annotator for each unit, of the units that two or more gave one."""
    last = {(label.unit, label.annotator_id): label for label in labels}
    count = Counter(unit for unit, _ in last)
    return [label for (unit, _), label in last.items() if count[unit] > 1]


def krippendorff_alpha(labels: Sequence[Label], level: Level) -> float:
    """Krippendorff's α of shared_labels(), at least two different values of them, by crowd-kit.

    Source: Krippendorff 2011, "Computing Krippendorff's alpha-reliability".
    """
    values = sorted({label.value for label in labels})
    places = {value: place for place, value in enumerate(values)}
    frequencies = Counter(places[label.value] for label in labels)
    distances = _ordinal(np.array([[frequencies[place] for place in range(len(values))]], dtype=np.float64))[0]
    units = {unit: number for number, unit in enumerate(dict.fromkeys(label.unit for label in labels))}
    needs("feedback")
    from crowdkit.metrics.data import alpha_krippendorff

    rows = [(units[label.unit], label.annotator_id, places[label.value]) for label in labels]
    frame = pd.DataFrame(rows, columns=[_UNIT, _WHO, _VALUE])
    distance = (lambda a, b: float(a != b)) if level == "nominal" else lambda a, b: float(distances[a, b])
    return float(alpha_krippendorff(frame, distance))


def alpha_interval(labels: Sequence[Label], level: Level, seed: int = 0, confidence: float = 0.95) -> Interval:
    """krippendorff_alpha() with a percentile bootstrap over units, seeded.

    Resamples in which all values are equal, where α is not defined, are left out.
    """
    rng = np.random.default_rng(seed)
    per_unit = _coincidences(labels)
    units = len(per_unit)
    even = np.full(units, 1 / units)
    draws = [
        _alphas(rng.multinomial(units, even, size=_AT_ONCE), per_unit, level) for _ in range(_RESAMPLES // _AT_ONCE)
    ]
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(np.concatenate(draws), [tail, 1 - tail])
    return Interval(krippendorff_alpha(labels, level), float(low), float(high))


def _coincidences(labels: Sequence[Label]) -> NDArray[np.float64]:
    """The contribution of each unit to the matrix of coincidences; [units, values, values]."""
    units = {unit: number for number, unit in enumerate(dict.fromkeys(label.unit for label in labels))}
    values = {value: number for number, value in enumerate(sorted({label.value for label in labels}))}
    counts = np.zeros((len(units), len(values)))
    for label in labels:
        counts[units[label.unit], values[label.value]] += 1
    pairs = counts[:, :, None] * counts[:, None, :] - counts[:, :, None] * np.eye(len(values))
    return pairs / (counts.sum(axis=1) - 1)[:, None, None]


def _alphas(weights: NDArray[np.int64], per_unit: NDArray[np.float64], level: Level) -> NDArray[np.float64]:
    """α for each way to count the units; weights [resamples, units]. NaN where all values are equal.

    The same formula as crowd-kit's, for a thousand samples at once (tests hold them equal).
    """
    observed = np.tensordot(weights, per_unit, axes=1)
    totals = observed.sum(axis=2)
    size = totals.shape[1]
    outer = totals[:, :, None] * totals[:, None, :] - totals[:, :, None] * np.eye(size)
    expected = outer / (totals.sum(axis=1) - 1)[:, None, None]
    distance = 1 - np.eye(size) if level == "nominal" else _ordinal(totals)
    disagreed, chance = (observed * distance).sum(axis=(1, 2)), (expected * distance).sum(axis=(1, 2))
    return 1 - np.divide(disagreed, chance, out=np.full_like(chance, np.nan), where=chance > 0)


def _ordinal(totals: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared number of values between two, ends counted half; totals [samples, values] in rising order."""
    upto = np.cumsum(totals, axis=1) - totals / 2
    return (upto[:, :, None] - upto[:, None, :]) ** 2


def pairwise_agreement(annotations: Sequence[Annotation]) -> tuple[PairAgreement, list[PairAgreement]]:
    """(over all pairs of annotators, of each pair) by the comparisons that both made; the first has empty names."""
    shared: Counter[tuple[str, str]] = Counter()
    agreed: Counter[tuple[str, str]] = Counter()
    for votes in votes_by_unit(list(comparisons_of(by_annotators(annotations)))).values():
        for pair in combinations(sorted(votes), 2):
            shared[pair] += 1
            agreed[pair] += votes[pair[0]] == votes[pair[1]]
    each = [_pair_agreement(*pair, agreed[pair], shared[pair]) for pair in sorted(shared)]
    return _pair_agreement("", "", agreed.total(), shared.total()), each


def _pair_agreement(first: str, second: str, agreed: int, shared: int) -> PairAgreement:
    return PairAgreement(first, second, wilson_interval(agreed, shared) if shared else None, shared)
