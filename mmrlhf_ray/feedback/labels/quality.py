"""How well each annotator works: gold items, agreement with the others, pace, sides, ties."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

from mmrlhf_ray.algorithms.statistics import Interval, wilson_interval
from mmrlhf_ray.errors import DataError
from mmrlhf_ray.feedback.annotations import (
    Annotation,
    Ratings,
    Unit,
    columns_of_answer,
    comparisons_of,
    votes_by_unit,
)

FAST_MS = 1500
"""Votes faster than this were hardly read."""
ENOUGH = 20
"""Comparisons with others below which a figure of agreement says next to nothing: its interval is wider than 0.4."""
GOLD_TOLERANCE = 1
"""A rating this close to the known one is right."""


@dataclass(frozen=True)
class GoldAnswer:
    """The known answer to an item, in the order of its responses; columns as in Annotation."""

    ranks: tuple[int, ...] = ()
    aspects: Mapping[str, Ratings] = field(default_factory=dict)


def gold_answer(question: str, answer: Mapping[str, Any], responses: int) -> GoldAnswer:
    """From an item's `gold`: an answer about its responses in the order in which they are stored."""
    columns = columns_of_answer(question, answer, range(responses))
    return GoldAnswer(
        tuple(columns["ranks"]), {name: tuple(values) for name, values in json.loads(columns["aspects"]).items()}
    )


@dataclass(frozen=True)
class AnnotatorQuality:
    """One annotator's figures. Shares come with Wilson's 95 % interval, and are None where nothing counts for them."""

    annotator_id: str
    votes: int
    gold: Interval | None
    """Answers within gold items that are right: comparisons, and ratings that are at most 1 off."""
    gold_votes: int
    consensus: Interval | None
    """Comparisons answered as the other annotators together answered them; where those are even, none counts."""
    consensus_votes: int
    median_ms: float | None
    """Of the votes whose time is known."""
    fast: Interval | None
    """Share of those that took less than `fast_ms`."""
    left: Interval | None
    """Share of the decided pairs in which the left response won; without bias 0.5."""
    pair_votes: int
    """Pairs decided."""
    ties: Interval | None
    """Share of pairs called a tie."""
    both_bad: Interval | None
    """Share of pairs with both responses called bad."""


def annotator_quality(
    annotations: Sequence[Annotation], gold: Mapping[str, GoldAnswer], fast_ms: int = FAST_MS
) -> list[AnnotatorQuality]:
    """Figures of every annotator, sorted by id; reviewers' decisions are left out.

    `gold`: item_id → the known answer. Raises DataError where it is about another number of responses than the item.
    """
    annotations = [annotation for annotation in annotations if annotation.role != "reviewer"]
    right, asked = _gold_answers(annotations, gold)
    with_others, compared = _as_the_others(votes_by_unit(list(comparisons_of(annotations))))
    by_annotator: dict[str, list[Annotation]] = defaultdict(list)
    for annotation in annotations:
        by_annotator[annotation.annotator_id].append(annotation)
    return [
        _quality(who, by_annotator[who], (right[who], asked[who]), (with_others[who], compared[who]), fast_ms)
        for who in sorted(by_annotator)
    ]


def _quality(
    who: str,
    annotations: Sequence[Annotation],
    gold: tuple[int, int],
    consensus: tuple[int, int],
    fast_ms: int,
) -> AnnotatorQuality:
    timed = [a.milliseconds for a in annotations if a.milliseconds > 0]
    pairs = [a for a in annotations if a.kind == "pair"]
    winners = [_winner_place(a) for a in pairs]
    decided = [place for place in winners if place is not None]
    bad = sum(a.choice == "both_bad" for a in pairs)
    return AnnotatorQuality(
        annotator_id=who,
        votes=len(annotations),
        gold=_share(*gold),
        gold_votes=gold[1],
        consensus=_share(*consensus),
        consensus_votes=consensus[1],
        median_ms=float(median(timed)) if timed else None,
        fast=_share(sum(ms < fast_ms for ms in timed), len(timed)),
        left=_share(decided.count(0), len(decided)),
        pair_votes=len(decided),
        ties=_share(len(pairs) - len(decided) - bad, len(pairs)),
        both_bad=_share(bad, len(pairs)),
    )


def _share(count: int, total: int) -> Interval | None:
    return wilson_interval(count, total) if total else None


def _winner_place(annotation: Annotation) -> int | None:
    """Where the better response of a pair stood, 0 = left; None for ties and both bad."""
    if len(set(annotation.ranks)) == 1:
        return None
    return annotation.order_shown.index(annotation.ranks.index(1))


def _gold_answers(
    annotations: Sequence[Annotation], gold: Mapping[str, GoldAnswer]
) -> tuple[Counter[str], Counter[str]]:
    """(right answers, all answers that gold has) by annotator."""
    right: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    for annotation in annotations:
        if annotation.item_id not in gold or annotation.kind not in _CHECKED:
            continue
        known = gold[annotation.item_id]
        truth = replace(annotation, ranks=known.ranks, aspects=known.aspects)
        for values in (known.ranks, *known.aspects.values()):
            if values and len(values) != len(annotation.responses):
                raise DataError(
                    f"gold answer of item {annotation.item_id}: expected an entry for each of the "
                    f"{len(annotation.responses)} responses, got {len(values)}; correct the item's gold answer"
                )
        answers = _CHECKED[annotation.kind](annotation, truth)
        asked[annotation.annotator_id] += len(answers)
        right[annotation.annotator_id] += sum(answers)
    return right, asked


def _right_order(annotation: Annotation, truth: Annotation) -> list[bool]:
    votes = {comparison.unit: comparison.vote for comparison in comparisons_of([annotation])}
    return [votes[comparison.unit] == comparison.vote for comparison in comparisons_of([truth])]


def _right_ratings(annotation: Annotation, truth: Annotation) -> list[bool]:
    """Aspects that gold rates and the annotator did not are not counted."""
    pairs = [
        pair
        for aspect, ratings in truth.aspects.items()
        for pair in zip(ratings, annotation.aspects.get(aspect, ()), strict=False)
    ]
    return [abs(a - b) <= GOLD_TOLERANCE for a, b in pairs if a is not None and b is not None]


_CHECKED: Mapping[str, Callable[[Annotation, Annotation], list[bool]]] = {
    "pair": _right_order,
    "rank": _right_order,
    "rate": _right_ratings,
}


def _as_the_others(votes_on: Mapping[Unit, Mapping[str, int]]) -> tuple[Counter[str], Counter[str]]:
    """(comparisons answered as most of the others did, those with one most frequent answer of the others)."""
    agreed: Counter[str] = Counter()
    compared: Counter[str] = Counter()
    for votes in votes_on.values():
        for who, vote in votes.items():
            others = Counter(other for name, other in votes.items() if name != who).most_common(2)
            if not others or (len(others) == 2 and others[0][1] == others[1][1]):
                continue
            compared[who] += 1
            agreed[who] += vote == others[0][0]
    return agreed, compared
