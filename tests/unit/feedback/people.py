"""Annotations made for tests, and simulated annotators of known reliability."""

import json
from itertools import count
from typing import Any

import numpy as np
import pyarrow as pa

from mmrlhf_ray.feedback.annotations import Annotation, columns_of_answer
from mmrlhf_ray.feedback.regions import regions_of
from mmrlhf_ray.schema import PROMPT

_numbers = count()

A, B, C = "alpha answers", "beta answers", "gamma answers"


def answered(
    question: str,
    answer: dict[str, Any],
    *,
    who: str = "ann",
    responses: tuple[str, ...] = (A, B),
    order: tuple[int, ...] | None = None,
    **columns: Any,
) -> Annotation:
    """The annotation of an answer about the responses as shown, in the order of the list where none is given."""
    order = tuple(range(len(responses))) if order is None else order
    made = columns_of_answer(question, answer, order)
    parsed = {
        "ranks": tuple(made["ranks"]),
        "aspects": {name: tuple(values) for name, values in json.loads(made["aspects"]).items()},
        "spans": tuple(tuple(span) for span in json.loads(made["spans"])),
        "regions": regions_of(made["regions"]),
    }
    prompt = columns.pop("prompt_id", "p")
    defaults = {"annotation_id": f"a{next(_numbers)}", "item_id": f"item-{prompt}", "sources": ("",) * len(responses)}
    return Annotation(
        **(
            defaults
            | {"prompt_id": prompt, "responses": responses, "annotator_id": who, "kind": question}
            | {"order_shown": order}
            | made
            | parsed
            | columns
        )
    )


def pair(choice: str, **columns: Any) -> Annotation:
    return answered("pair", {"choice": choice}, **columns)


def prompts(*ids: str, task: str = "digits", extras: str = "{}") -> pa.Table:
    messages = json.dumps([{"role": "user", "content": [{"type": "text", "text": "Which digit?"}]}])
    rows = [
        {"prompt_id": i, "messages": messages, "media_ids": [], "task": task, "modality": "text", "extras": extras}
        for i in ids or ("p",)
    ]
    return pa.Table.from_pylist(rows, schema=PROMPT)


def crowd(reliability: dict[str, float], items: int, seed: int, overlap: int | None = None) -> list[Annotation]:
    """Pair votes on items of which the first response is the better one in half: each annotator sees the truth with
    the given probability, and says the contrary otherwise. Sides are drawn anew for each vote."""
    rng = np.random.default_rng(seed)
    votes = []
    for item in range(items):
        better = int(rng.integers(2))
        people = rng.permutation(list(reliability))[: overlap or len(reliability)]
        for who in people:
            said = better if rng.random() < reliability[str(who)] else 1 - better
            order = tuple(int(i) for i in rng.permutation(2))
            votes.append(pair(("left", "right")[order.index(said)], who=str(who), order=order, prompt_id=f"p{item}"))
    return votes
