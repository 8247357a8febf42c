"""Which items a reviewer should look at first."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from mmrlhf_ray.feedback.annotations import Annotation, Unit, comparisons_of
from mmrlhf_ray.feedback.questions.rate import SCALE

_RANGE = SCALE[-1] - SCALE[0]


@dataclass(frozen=True)
class ReviewItem:
    """An item that a reviewer should decide."""

    item_id: str
    disagreement: float
    """0 = all said the same, 1 = no two did: over comparisons and ratings, the mean over pairs of annotators."""
    reliability: float | None
    """Mean reliability of those who voted; None where none is known."""
    annotators: int
    reasons: tuple[str, ...]


def review_queue(
    annotations: Sequence[Annotation],
    reliability: Mapping[str, float] | None = None,
    max_disagreement: float = 0.5,
    min_reliability: float = 0.6,
) -> list[ReviewItem]:
    """Items for review, the most disputed first, then those voted on by less reliable annotators, then by id.

    Gold items and items that a reviewer has decided are left out. An item is reviewed when its disagreement is at
    least `max_disagreement`, or when the mean reliability of its annotators is below `min_reliability`.
    `reliability`: annotator_id → 0 … 1, from gold items or Dawid–Skene.
    """
    items: dict[str, list[Annotation]] = defaultdict(list)
    decided = {annotation.item_id for annotation in annotations if annotation.role == "reviewer"}
    for annotation in annotations:
        if annotation.item_id not in decided and not annotation.gold:
            items[annotation.item_id].append(annotation)
    found = [_review_item(item, items[item], reliability or {}, max_disagreement, min_reliability) for item in items]
    queue = [item for item in found if item.reasons]
    return sorted(queue, key=lambda item: (-item.disagreement, _or_one(item.reliability), item.item_id))


def _or_one(value: float | None) -> float:
    return 1.0 if value is None else value


def _review_item(
    item_id: str,
    annotations: Sequence[Annotation],
    reliability: Mapping[str, float],
    max_disagreement: float,
    min_reliability: float,
) -> ReviewItem:
    people = {a.annotator_id for a in annotations}
    known = [reliability[who] for who in people if who in reliability]
    mean = sum(known) / len(known) if known else None
    disagreement = item_disagreement(annotations)
    reasons = {
        "annotators disagree": len(people) > 1 and disagreement >= max_disagreement,
        "annotators of low reliability": mean is not None and mean < min_reliability,
    }
    return ReviewItem(item_id, disagreement, mean, len(people), tuple(reason for reason in reasons if reasons[reason]))


def item_disagreement(annotations: Sequence[Annotation]) -> float:
    """Mean distance between the answers of every two annotators to one item, 0 … 1; 0 where only one answered.

    Opposite preferences are 1 apart, a tie and a preference ½, a tie and both bad 1. Two ratings are their difference
    over the range of the scale apart.
    """
    distances: list[float] = []
    votes: dict[Unit, dict[str, float]] = defaultdict(dict)
    for comparison in comparisons_of([a for a in annotations if a.kind in ("pair", "rank")]):
        votes[comparison.unit][comparison.source.annotator_id] = comparison.vote / 2
    ratings: dict[tuple[str, int], dict[str, float]] = defaultdict(dict)
    for annotation in annotations:
        for aspect, values in annotation.aspects.items():
            for number, value in enumerate(values):
                if value is not None:
                    ratings[aspect, number][annotation.annotator_id] = value / _RANGE
    for given in (*votes.values(), *ratings.values()):
        distances += [abs(a - b) for a, b in combinations(given.values(), 2)]
    ties = {a.annotator_id: a.choice for a in annotations if a.choice in ("tie", "both_bad")}
    extra = sum(a != b for a, b in combinations(ties.values(), 2))
    return (sum(distances) + extra) / len(distances) if distances else 0.0
