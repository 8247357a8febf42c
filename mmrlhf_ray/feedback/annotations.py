"""Annotations as values: from an answer about responses as shown to the comparisons of two texts in it."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, TypeVar

import pyarrow as pa

from mmrlhf_ray.errors import DataError
from mmrlhf_ray.feedback.episodes import EpisodeTurn, episodes_of, turn_json
from mmrlhf_ray.feedback.regions import Region, pressed, region_of, regions_json, regions_of, renumbered
from mmrlhf_ray.schema import ANNOTATION, check

T = TypeVar("T")
Ratings = tuple[float | None, ...]
Span = tuple[int, int, str]
"""(start, end, note): characters [start, end) of the response."""
JSON_COLUMNS = ("aspects", "spans", "regions", "turns")
"""Columns of ANNOTATION that hold JSON; exports in JSON lines have them as what they stand for."""
CHOICE_RANKS: Mapping[str, tuple[int, int]] = {"left": (1, 2), "right": (2, 1), "tie": (1, 1), "both_bad": (1, 1)}
"""Ranks of the two responses as shown that a choice stands for."""
Unit = tuple[str, str, str]
"""(prompt_id, first text, second text): two texts that can be compared."""


@dataclass(frozen=True)
class Annotation:
    """One ANNOTATION row. Ranks and ratings are in the order of `responses`; the order shown is undone."""

    annotation_id: str
    item_id: str
    prompt_id: str
    responses: tuple[str, ...]
    annotator_id: str
    kind: str
    turns: tuple[tuple[EpisodeTurn, ...], ...] = ()
    """Of each response that is an episode, whose text is then its transcript; () where all are of one turn."""
    sources: tuple[str, ...] = ()
    """Who or what wrote each response; "" = unknown."""
    role: str = "annotator"
    """Or reviewer, whose decision outweighs the votes."""
    order_shown: tuple[int, ...] = ()
    """Index into `responses` of what stood at each place."""
    choice: str = ""
    """The choice clicked in a pair, as shown: left, right, tie or both_bad; "" for other kinds."""
    ranks: tuple[int, ...] = ()
    """Of each response, 1 = best, equal = tie; empty where nobody ranked."""
    aspects: Mapping[str, Ratings] = field(default_factory=dict)
    """Rating of each response by aspect, None = not rated."""
    text: str = ""
    """The correction of responses[order_shown[0]], or the demonstration."""
    spans: tuple[Span, ...] = ()
    """Of responses[order_shown[0]]."""
    regions: tuple[Region, ...] = ()
    """Places that the answer points at."""
    critique: str = ""
    comment: str = ""
    gold: bool = False
    """Asked to test the annotator: not for training."""
    round: int = 0
    milliseconds: int = 0
    created: str = ""

    @property
    def shown(self) -> str:
        """The one response that a correction, spans or a critique are about."""
        return self.responses[self.order_shown[0]]


def annotations_of(table: pa.Table) -> list[Annotation]:
    """The rows of an ANNOTATION table. Raises DataError for a row whose lists do not fit its responses."""
    check(table, ANNOTATION, "annotations_of")
    return [_annotation(number, row) for number, row in enumerate(table.to_pylist())]


def _annotation(number: int, row: Mapping[str, Any]) -> Annotation:
    responses = tuple(row["responses"])
    aspects = {name: tuple(ratings) for name, ratings in json.loads(row["aspects"]).items()}
    turns = episodes_of(row["turns"])
    lists = {"ranks": row["ranks"], "turns": turns} | {
        f"aspects[{name!r}]": ratings for name, ratings in aspects.items()
    }
    for name, values in lists.items():
        if values and len(values) != len(responses):
            raise DataError(
                f"annotations row {number} ({row['annotation_id']}): {name} expects one entry for each of the "
                f"{len(responses)} responses, got {len(values)}; give as many"
            )
    order = row["order_shown"]
    if len(set(order)) < len(order) or any(not 0 <= index < len(responses) for index in order):
        raise DataError(
            f"annotations row {number} ({row['annotation_id']}): order_shown expects different indices below "
            f"{len(responses)}, the number of responses, got {order}"
        )
    if row["kind"] == "correct" and not order:
        raise DataError(
            f"annotations row {number} ({row['annotation_id']}): order_shown of a correction is empty; it must name "
            "the response that was corrected"
        )
    parsed = {
        "regions": _regions(number, row),
        "turns": turns,
        "responses": responses,
        "sources": tuple(row["sources"]),
        "order_shown": tuple(row["order_shown"]),
        "ranks": tuple(row["ranks"]),
        "aspects": aspects,
        "spans": tuple((start, end, note) for start, end, note in json.loads(row["spans"])),
    }
    return Annotation(**(dict(row) | parsed))


def _regions(number: int, row: Mapping[str, Any]) -> tuple[Region, ...]:
    try:
        regions = regions_of(row["regions"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"annotations row {number} ({row['annotation_id']}): regions cannot be read: {error}; write them as "
            "docs/feedback.md says"
        ) from error
    unknown = [index for region in regions for index in region.responses if not 0 <= index < len(row["responses"])]
    if unknown:
        raise DataError(
            f"annotations row {number} ({row['annotation_id']}): regions expects responses below "
            f"{len(row['responses'])}, their number, got {unknown[0]}"
        )
    return regions


def annotations_table(annotations: Sequence[Annotation]) -> pa.Table:
    """The ANNOTATION table of annotations: the inverse of annotations_of()."""
    rows = [
        vars(a)
        | {
            "aspects": json.dumps(dict(a.aspects), ensure_ascii=False),
            "spans": json.dumps(a.spans, ensure_ascii=False),
            "regions": regions_json(a.regions),
            "turns": json.dumps([[turn_json(turn) for turn in turns] for turns in a.turns], ensure_ascii=False),
        }
        for a in annotations
    ]
    return check(pa.Table.from_pylist(rows, schema=ANNOTATION), ANNOTATION, "annotations_table")


def in_force(annotations: Sequence[Annotation]) -> list[Annotation]:
    """Annotations for training: no answers to gold items, and of items that a reviewer decided only the decisions."""
    decided = {a.item_id for a in annotations if a.role == "reviewer"}
    return [a for a in annotations if not a.gold and (a.role == "reviewer" or a.item_id not in decided)]


def as_listed(shown: Sequence[T], order_shown: Sequence[int]) -> list[T]:
    """Values given per response as shown, in the order of the item's responses: the one place that undoes the order.

    `order_shown`: index into the item's responses of what stood at each place, a permutation. Raises DataError.
    """
    if sorted(order_shown) != list(range(len(shown))):
        raise DataError(
            f"order_shown expects each of 0 … {len(shown) - 1} once for {len(shown)} values, got {list(order_shown)}"
        )
    return [shown[order_shown.index(index)] for index in range(len(shown))]


def columns_of_answer(question: str, answer: Mapping[str, Any], order_shown: Sequence[int]) -> dict[str, Any]:
    """ranks, aspects, choice, text, spans, regions, critique and comment of an ANNOTATION row, from an answer as sent.

    `question`: pair, rank, rate, correct, demonstrate, spans, critique or live. `answer`: already checked, about the
    responses as shown. The shown order is undone here, and nowhere else.
    """
    columns: dict[str, Any] = {"ranks": [], "aspects": {}, "choice": "", "text": "", "spans": []}
    columns |= {"critique": answer.get("critique") or "", "comment": answer.get("comment") or ""}
    columns |= _ANSWERS[question](answer, order_shown)
    regions = [renumbered(region_of(region), order_shown) for region in answer.get("regions") or ()]
    regions += pressed(answer.get("presses") or ())
    return (
        columns
        | {key: json.dumps(columns[key], ensure_ascii=False) for key in ("aspects", "spans")}
        | {"regions": regions_json(regions)}
    )


def _pair(answer: Mapping[str, Any], order_shown: Sequence[int]) -> dict[str, Any]:
    choice = answer["choice"]
    return {"ranks": as_listed(CHOICE_RANKS[choice], order_shown), "choice": choice}


def _rank(answer: Mapping[str, Any], order_shown: Sequence[int]) -> dict[str, Any]:
    return {"ranks": as_listed(answer["ranks"], order_shown)}


def _rate(answer: Mapping[str, Any], order_shown: Sequence[int]) -> dict[str, Any]:
    listed = as_listed(answer["ratings"], order_shown)
    names = dict.fromkeys(name for ratings in listed for name in ratings)
    return {"aspects": {name: [ratings.get(name) for ratings in listed] for name in names}}


def _text(answer: Mapping[str, Any], order_shown: Sequence[int]) -> dict[str, Any]:
    return {"text": answer["text"]}


def _spans(answer: Mapping[str, Any], order_shown: Sequence[int]) -> dict[str, Any]:
    return {"spans": [list(span) for span in answer["spans"]]}


def _critique(answer: Mapping[str, Any], order_shown: Sequence[int]) -> dict[str, Any]:
    return {"critique": "\n".join(text for text in (answer["text"], answer.get("critique")) if text)}


def _live(answer: Mapping[str, Any], order_shown: Sequence[int]) -> dict[str, Any]:
    return {}  # presses are places


_ANSWERS: Mapping[str, Callable[[Mapping[str, Any], Sequence[int]], dict[str, Any]]] = {
    "pair": _pair,
    "rank": _rank,
    "rate": _rate,
    "correct": _text,
    "demonstrate": _text,
    "spans": _spans,
    "critique": _critique,
    "live": _live,
}


@dataclass(frozen=True)
class Comparison:
    """One annotation's judgement of two different texts; `first` sorts before `second`."""

    prompt_id: str
    first: str
    second: str
    vote: int
    """1 = the first is better, −1 = the second, 0 = neither."""
    rating: float | None
    """Mean rating of the first minus that of the second, over the aspects rated for both; None without ratings."""
    source: Annotation

    @property
    def unit(self) -> Unit:
        return self.prompt_id, self.first, self.second


def comparisons_of(annotations: Sequence[Annotation]) -> Iterator[Comparison]:
    """Every comparison of two different texts that the annotations contain.

    Ranks compare each pair of responses. Where there are ratings only, the mean over the aspects rated for both
    responses does. A correction is better than what it corrects. Everything else compares nothing.
    """
    for annotation in annotations:
        if annotation.kind == "correct":
            yield from _compared(annotation, ((annotation.text, 1, None), (annotation.shown, 2, None)))
        elif annotation.ranks or annotation.aspects:
            yield from _compared_all(annotation)


def votes_by_unit(comparisons: Sequence[Comparison]) -> dict[Unit, dict[str, int]]:
    """Every two texts that were compared, in the order of their first comparison → annotator_id → vote.

    Of several votes of one annotator on one pair the last counts.
    """
    votes: dict[Unit, dict[str, int]] = defaultdict(dict)
    for comparison in comparisons:
        votes[comparison.unit][comparison.source.annotator_id] = comparison.vote
    return votes


_Judged = tuple[str, int | None, tuple[float | None, ...] | None]
"""(text, rank, ratings)."""


def _compared_all(annotation: Annotation) -> Iterator[Comparison]:
    by_response = zip(*annotation.aspects.values(), strict=True)
    ratings = list(by_response) if annotation.aspects else [None] * len(annotation.responses)
    ranks: Sequence[int | None] = annotation.ranks or [None] * len(annotation.responses)
    judged: list[_Judged] = list(zip(annotation.responses, ranks, ratings, strict=True))
    for a, b in combinations(judged, 2):
        yield from _compared(annotation, (a, b))


def _compared(annotation: Annotation, pair: tuple[_Judged, _Judged]) -> Iterator[Comparison]:
    (first, rank_a, ratings_a), (second, rank_b, ratings_b) = sorted(pair, key=lambda judged: judged[0])
    if first == second:
        return
    rating = _difference(ratings_a, ratings_b)
    if rank_a is not None and rank_b is not None:
        vote = (rank_a < rank_b) - (rank_a > rank_b)
    elif rating is not None:
        vote = (rating > 0) - (rating < 0)
    else:
        return
    yield Comparison(annotation.prompt_id, first, second, vote, rating, annotation)


def _difference(a: Sequence[float | None] | None, b: Sequence[float | None] | None) -> float | None:
    both = [(x, y) for x, y in zip(a or (), b or (), strict=True) if x is not None and y is not None]
    return sum(x - y for x, y in both) / len(both) if both else None
