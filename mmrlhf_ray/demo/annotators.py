"""Simulated annotators: noisy Bradley–Terry choices over the gold reward."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from mmrlhf_ray.data.records.annotations import annotation_row
from mmrlhf_ray.demo.gold import gold_reward
from mmrlhf_ray.demo.tasks import SENTENCE_END
from mmrlhf_ray.schema import ANNOTATION, PROMPT, check


@dataclass(frozen=True)
class Response:
    """One response to be judged."""

    text: str
    finish_reason: str
    response_tokens: int


@dataclass(frozen=True)
class ResponsePair:
    prompt_id: str
    first: Response
    second: Response


@dataclass(frozen=True)
class Annotator:
    """How one person chooses. Gold rewards are about 0 to 1.6."""

    annotator_id: str
    temperature: float
    """Of the Bradley–Terry choice: P(first) = σ(gold difference / temperature)."""
    side_bias: float
    """Added to the gold reward of the response shown on the left."""
    length_bias: float
    """Added per response token: some people like long answers, some short ones."""
    tie_margin: float
    """Differences smaller than this, noise included, are called a tie."""


ANNOTATORS = (
    Annotator("ann-1", temperature=0.15, side_bias=0.00, length_bias=0.000, tie_margin=0.10),
    Annotator("ann-2", temperature=0.25, side_bias=0.05, length_bias=0.005, tie_margin=0.05),
    Annotator("ann-3", temperature=0.35, side_bias=0.00, length_bias=-0.005, tie_margin=0.00),
    Annotator("ann-4", temperature=0.50, side_bias=-0.05, length_bias=0.010, tie_margin=0.10),
    Annotator("ann-5", temperature=0.70, side_bias=0.10, length_bias=0.000, tie_margin=0.00),
)


def choose_ranks(who: Annotator, values: Sequence[float], tokens: Sequence[int], rng: np.random.Generator) -> list[int]:
    """Ranks of the two responses in the order shown, 1 = best, [1, 1] = tie.

    A difference with logistic noise of scale `temperature` is positive with the Bradley–Terry probability.
    """
    liked = [v + who.length_bias * n for v, n in zip(values, tokens, strict=True)]
    uniform = rng.uniform(1e-9, 1 - 1e-9)
    difference = liked[0] + who.side_bias - liked[1] + who.temperature * math.log(uniform / (1 - uniform))
    if abs(difference) < who.tie_margin:
        return [1, 1]
    return [1, 2] if difference > 0 else [2, 1]


def choose_pairs(
    prompt_id: str, responses: Sequence[Response], count: int, rng: np.random.Generator
) -> list[ResponsePair]:
    """At most `count` pairs of different responses to ask about, those of as many sentences first.

    Between a bare answer and one with evidence the form decides. What a reward model cannot learn from such pairs is
    whether the evidence is true, so pairs of one form, long before short, are asked about before mixed ones.
    """
    distinct = list({response.text: response for response in responses}.values())
    order = [distinct[i] for i in rng.permutation(len(distinct))]
    pairs = [ResponsePair(prompt_id, a, b) for i, a in enumerate(order) for b in order[i + 1 :]]

    def form(pair: ResponsePair) -> tuple[bool, int]:
        first, second = (r.text.count(SENTENCE_END) for r in (pair.first, pair.second))
        return first != second, -max(first, second)

    return sorted(pairs, key=form)[:count]


def annotate(
    prompts: pa.Table,
    pairs: Sequence[ResponsePair],
    seed: int,
    annotators: Sequence[Annotator] = ANNOTATORS,
    votes_per_pair: int = 3,
) -> pa.Table:
    """ANNOTATION rows: for every pair, the votes of `votes_per_pair` different annotators.

    `prompts` is a PROMPT table that holds every pair's prompt. Sides are drawn anew for each vote. Raises ValueError
    when a pair's prompt is missing or there are fewer annotators than votes.
    """
    if votes_per_pair > len(annotators):
        raise ValueError(f"votes_per_pair={votes_per_pair} needs as many annotators; there are {len(annotators)}")
    check(prompts, PROMPT, "annotate")
    extras = dict(zip(prompts.column("prompt_id").to_pylist(), prompts.column("extras").to_pylist(), strict=True))
    rng = np.random.default_rng([seed, 7])
    rows: list[dict[str, object]] = []
    for i, pair in enumerate(pairs):
        if pair.prompt_id not in extras:
            raise ValueError(f"pair {i}: prompt_id {pair.prompt_id!r} is not among the {len(extras)} prompts")
        truth = json.loads(extras[pair.prompt_id])
        both = (pair.first, pair.second)
        gold = [gold_reward(r.text, r.finish_reason, r.response_tokens, truth).total for r in both]
        for who in rng.choice(len(annotators), size=votes_per_pair, replace=False):
            shown = [int(k) for k in rng.permutation(2)]
            seen = choose_ranks(
                annotators[who], [gold[k] for k in shown], [both[k].response_tokens for k in shown], rng
            )
            rows.append(
                annotation_row(
                    annotation_id=f"vote-{len(rows):06d}",
                    item_id=f"pair-{i:06d}",
                    prompt_id=pair.prompt_id,
                    responses=[r.text for r in both],
                    annotator_id=annotators[who].annotator_id,
                    kind="pair",
                    order_shown=shown,
                    choice={-1: "left", 0: "tie", 1: "right"}[seen[0] - seen[1]],
                    ranks=[seen[shown.index(k)] for k in range(2)],
                )
            )
    return pa.Table.from_pylist(rows, schema=ANNOTATION)
