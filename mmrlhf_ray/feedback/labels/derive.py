"""Annotations to what is trained on: preferences, rankings, demonstrations. Every record names its annotations.

Answers to gold items are never used, and a reviewer's decision about an item replaces its votes.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, pstdev
from typing import Any, Literal

import pyarrow as pa

from mmrlhf_ray.errors import DataError
from mmrlhf_ray.feedback.annotations import Annotation, Comparison, comparisons_of, in_force
from mmrlhf_ray.feedback.labels.evidence import (
    REGION_FACTS,
    ResponseName,
    region_facts,
    regions_of_record,
    turns_of_record,
)
from mmrlhf_ray.feedback.labels.segments import changed_segments
from mmrlhf_ray.feedback.questions.rate import SCALE
from mmrlhf_ray.schema import DEMONSTRATION, PREFERENCE, PROMPT, RANKING, check

ORIGIN = "annotated"
"""Key in extras of what a record was derived from."""

Margin = Literal["agreement", "rating", "none"]

_RANGE = SCALE[-1] - SCALE[0]


@dataclass(frozen=True)
class PreferenceRules:
    """How votes become preferences."""

    consensus: Literal["majority", "dawid_skene"] = "majority"
    margin: Margin = "agreement"
    """agreement: how far the chosen response is ahead, (0, 1]; rating: the mean difference of ratings over the range
    of the scale; none: 0."""
    min_votes: int = 1
    """Annotators that a pair needs."""
    min_margin: float = 0.0
    """By agreement, whatever `margin` is; pairs at or below it are left out, even ones always."""


@dataclass(frozen=True)
class RankingRules:
    min_annotators: int = 1
    weights: Mapping[str, float] = field(default_factory=dict)
    """annotator_id → weight in the means, such as a reliability; 1 where none is given."""


@dataclass(frozen=True)
class DemonstrationRules:
    """`feedback` of what is derived; see DEMONSTRATION."""

    demonstration: float = 0.0
    """A written answer: to imitate."""
    correction: float = 1.0
    both_bad: float = -1.0
    """Each response of a pair called bad."""


def derive_preferences(
    annotations: Sequence[Annotation], prompts: pa.Table, rules: PreferenceRules | None = None
) -> pa.Table:
    """PREFERENCE rows: the better of every two texts that were compared, in the order of their first comparison.

    Ranks, ratings without ranks (by their mean) and corrections (better than the original) all compare, see
    comparisons_of(); `prompts` is a PROMPT table. Pairs without a winner give no row. extras[ORIGIN] has the
    annotation ids, counts for, against and tied, and for corrections the changed segments of the rejected text.

    Raises DataError for an unknown or repeated prompt, and for `margin: rating` of a pair that nobody rated.
    """
    from mmrlhf_ray.feedback.labels.consensus import consensus  # crowd-kit takes a second to load

    rules = rules or PreferenceRules()
    asked = _prompts(prompts)
    comparisons = list(comparisons_of(_usable(annotations, asked)))
    verdicts = consensus(comparisons, rules.consensus).verdicts
    by_unit: dict[tuple[str, str, str], list[Comparison]] = defaultdict(list)
    for comparison in comparisons:
        by_unit[comparison.unit].append(comparison)
    rows = []
    for unit, made in by_unit.items():
        verdict = verdicts[unit]
        if verdict.vote == 0 or verdict.votes < rules.min_votes or verdict.margin <= rules.min_margin:
            continue
        prompt_id, first, second = unit
        chosen, rejected = (first, second) if verdict.vote > 0 else (second, first)
        margin = _MARGINS[rules.margin](made, verdict.vote, verdict.margin)
        origin = _pair_origin(made, verdict.vote, chosen, rejected) | {"consensus": rules.consensus}
        facts = region_facts(_sources(made))
        rows.append(
            _record(asked[prompt_id], origin, facts) | {"chosen": chosen, "rejected": rejected, "margin": margin}
        )
    return check(pa.Table.from_pylist(rows, schema=PREFERENCE), PREFERENCE, "derive_preferences")


def _pair_origin(made: Sequence[Comparison], vote: int, chosen: str, rejected: str) -> dict[str, Any]:
    votes = [comparison.vote * vote for comparison in made]
    origin = _origin(_sources(made), {rejected: "rejected", chosen: "chosen"})
    origin |= {"for": votes.count(1), "against": votes.count(-1), "tied": votes.count(0)}
    if any(c.source.kind == "correct" and c.source.text == chosen for c in made):
        origin["segments"] = [segment.as_json() for segment in changed_segments(rejected, chosen)]
    return origin


def _sources(made: Sequence[Comparison]) -> list[Annotation]:
    """The annotations of comparisons, each once."""
    return list({comparison.source.annotation_id: comparison.source for comparison in made}.values())


def _rating_margin(made: Sequence[Comparison], vote: int, agreed: float) -> float:
    ratings = [comparison.rating for comparison in made if comparison.rating is not None]
    if not ratings:
        ids = ", ".join(comparison.source.annotation_id for comparison in made)
        raise DataError(f"margin: rating, but annotations {ids} have no ratings; use margin: agreement")
    # Ratings may point the other way than ranks do; then they say nothing of how much better the chosen one is.
    return max(0.0, vote * fmean(ratings) / _RANGE)


_MARGINS = {
    "agreement": lambda made, vote, agreed: agreed,
    "rating": _rating_margin,
    "none": lambda made, vote, agreed: 0.0,
}


def derive_rankings(
    annotations: Sequence[Annotation], prompts: pa.Table, rules: RankingRules | None = None
) -> pa.Table:
    """RANKING rows: one for every set of responses to a prompt that was ranked, chosen from or rated.

    Responses are in the order of the first annotation of the set. Ranks are those of the mean rank, equal means tie;
    aspects are the mean ratings, null where nobody rated. extras[ORIGIN] has the annotation ids, how many ranked, and
    the standard deviations between annotators, `rank_sd` and `aspect_sd`. `prompts` is a PROMPT table.

    Raises DataError for an unknown or repeated prompt.
    """
    rules = rules or RankingRules()
    asked = _prompts(prompts)
    sets: dict[tuple[str, frozenset[str]], dict[str, Annotation]] = defaultdict(dict)
    for annotation in _usable(annotations, asked):
        different = frozenset(annotation.responses)
        ranked = bool(annotation.ranks or annotation.aspects) and annotation.kind != "correct"
        if ranked and len(different) == len(annotation.responses) > 1:
            sets[annotation.prompt_id, different][f"{annotation.annotator_id}/{annotation.kind}"] = annotation
    rows = []
    for (prompt_id, _), last in sets.items():
        made = list(last.values())
        if len({a.annotator_id for a in made}) < rules.min_annotators:
            continue
        responses = made[0].responses
        means, rank_sd = _merged([_listed(a.ranks, a, responses) for a in made], made, rules.weights)
        names = list(dict.fromkeys(name for a in made for name in a.aspects))
        aspects = {
            n: _merged([_listed(a.aspects.get(n, ()), a, responses) for a in made], made, rules.weights) for n in names
        }
        ranks = _ranks_of_means(means)
        if not ranks and not any(value is not None for rated, _ in aspects.values() for value in rated):
            continue
        origin = _origin(made, {text: number for number, text in enumerate(responses)}) | {
            "ranked_by": sum(bool(a.ranks) for a in made),
            "rank_sd": rank_sd,
            "aspect_sd": {name: sd for name, (_, sd) in aspects.items()},
        }
        rows.append(
            _record(asked[prompt_id], origin, region_facts(made))
            | {
                "responses": list(responses),
                "ranks": ranks,
                "aspects": json.dumps({name: rated for name, (rated, _) in aspects.items()}, ensure_ascii=False),
            }
        )
    return check(pa.Table.from_pylist(rows, schema=RANKING), RANKING, "derive_rankings")


def _listed(values: Sequence[Any], annotation: Annotation, responses: Sequence[str]) -> list[Any]:
    """An annotation's values in the order of `responses`, which may be another than its own; [] where it has none."""
    if not values:
        return []
    by_text = dict(zip(annotation.responses, values, strict=True))
    return [by_text[text] for text in responses]


def _merged(
    lists: Sequence[Sequence[float | None]], made: Sequence[Annotation], weights: Mapping[str, float]
) -> tuple[list[float | None], list[float | None]]:
    """(weighted mean, standard deviation) of each response's values; ([], []) without any list."""
    given = [(values, weights.get(a.annotator_id, 1.0)) for values, a in zip(lists, made, strict=True) if values]
    means: list[float | None] = []
    deviations: list[float | None] = []
    for column in zip(*(values for values, _ in given), strict=True):
        present = [(v, w) for v, (_, w) in zip(column, given, strict=True) if v is not None and w > 0]
        means.append(sum(v * w for v, w in present) / sum(w for _, w in present) if present else None)
        deviations.append(pstdev([v for v, _ in present]) if present else None)
    return means, deviations


def _ranks_of_means(means: Sequence[float | None]) -> list[int]:
    """1 for the lowest mean, equal for equal ones, without gaps; [] where a response has none."""
    known = [round(mean, 9) for mean in means if mean is not None]  # sums of weights leave noise in the last digits
    if len(known) < len(means):
        return []
    order = sorted(set(known))
    return [order.index(mean) + 1 for mean in known]


def derive_demonstrations(
    annotations: Sequence[Annotation], prompts: pa.Table, rules: DemonstrationRules | None = None
) -> pa.Table:
    """DEMONSTRATION rows: written answers, corrections, and the responses of pairs that were called both bad.

    Of one text of a prompt that several annotations give, `feedback` is the mean. extras[ORIGIN] has the annotation
    ids and kinds, and of a correction the text that was corrected. `prompts` is a PROMPT table. Implicit feedback is
    in `feedback.implicit`. Raises DataError for an unknown or repeated prompt.
    """
    rules = rules or DemonstrationRules()
    asked = _prompts(prompts)
    given: dict[tuple[str, str], list[tuple[float, Annotation]]] = defaultdict(list)
    for annotation in _usable(annotations, asked):
        for text, value in _texts(annotation, rules):
            if text:
                given[annotation.prompt_id, text].append((value, annotation))
    rows = []
    for (prompt_id, text), values in given.items():
        made = [annotation for _, annotation in values]
        corrections = [a for a in made if a.kind == "correct"]
        origin = _origin(made, {text: "response"}) | ({"corrected": corrections[0].shown} if corrections else {})
        rows.append(_record(asked[prompt_id], origin) | {"response": text, "feedback": fmean(v for v, _ in values)})
    return check(pa.Table.from_pylist(rows, schema=DEMONSTRATION), DEMONSTRATION, "derive_demonstrations")


def _texts(annotation: Annotation, rules: DemonstrationRules) -> list[tuple[str, float]]:
    if annotation.choice == "both_bad":
        return [(text, rules.both_bad) for text in dict.fromkeys(annotation.responses)]
    written = {"demonstrate": rules.demonstration, "correct": rules.correction}
    return [(annotation.text, written[annotation.kind])] if annotation.kind in written else []


def _prompts(prompts: pa.Table) -> dict[str, dict[str, Any]]:
    rows = check(prompts, PROMPT, "derive").to_pylist()
    asked = {row["prompt_id"]: row for row in rows}
    if len(asked) != len(rows):
        raise DataError(f"prompts: prompt_id must be unique; {len(rows)} rows have {len(asked)} different ids")
    return asked


def _usable(annotations: Sequence[Annotation], asked: Mapping[str, Any]) -> list[Annotation]:
    """Those in force. Raises DataError where a prompt is missing."""
    usable = in_force(annotations)
    for annotation in usable:
        if annotation.prompt_id not in asked:
            raise DataError(
                f"annotation {annotation.annotation_id}: prompt_id {annotation.prompt_id!r} is not among the "
                f"{len(asked)} prompts; give the prompts of all annotations"
            )
    return usable


def _origin(annotations: Iterable[Annotation], names: Mapping[str, ResponseName]) -> dict[str, Any]:
    """`names`: text of a response → what the record calls it."""
    made = list(annotations)
    regions = list(regions_of_record(made, names))
    turns = turns_of_record(made, names)
    return (
        {
            "annotation_ids": [a.annotation_id for a in made],
            "annotators": len({a.annotator_id for a in made}),
            "kinds": sorted({a.kind for a in made}),
        }
        | ({"regions": regions} if regions else {})
        | ({"turns": turns} if turns else {})
    )


def _record(prompt: Mapping[str, Any], origin: Mapping[str, Any], facts: str | None = None) -> dict[str, Any]:
    """The prompt's columns with `origin`, and `facts` for a reward model, among its extras."""
    extras = json.loads(prompt["extras"])
    ours = {ORIGIN: dict(origin)} | ({} if facts is None else {REGION_FACTS: facts})
    for key in ours:
        if key in extras:
            raise DataError(f"prompt {prompt['prompt_id']}: extras has {key!r} already; rename that key of the prompt")
    return dict(prompt) | {"extras": json.dumps(extras | ours, ensure_ascii=False)}
