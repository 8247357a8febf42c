"""From sampled responses to questions: candidate pairs, those that are asked, and items as the server takes them."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa

from mmrlhf_ray.config.iterate import AskSection
from mmrlhf_ray.errors import DataError
from mmrlhf_ray.feedback.labels.selection import Candidates, Floats, hashed_ngrams, selection_named
from mmrlhf_ray.rewards.batch import prompt_text

_ID_CHARS = 32


@dataclass(frozen=True)
class Pair:
    """Two different responses to one prompt."""

    prompt_id: str
    first: str
    second: str

    @property
    def key(self) -> tuple[str, str, str]:
        """The same whichever comes first."""
        return (self.prompt_id, *sorted((self.first, self.second)))  # type: ignore[return-value]


def candidate_pairs(
    responses: pa.Table, per_prompt: int, asked: Iterable[Pair], rng: np.random.Generator
) -> list[Pair]:
    """At most `per_prompt` pairs of different texts to each prompt of a RESPONSE table, none that was asked before.

    Empty responses are no question. In the order of the prompts; of a prompt at random, as are the sides.
    """
    texts: dict[str, dict[str, None]] = {}
    for prompt_id, text in zip(*(responses.column(name).to_pylist() for name in ("prompt_id", "text")), strict=True):
        if text.strip():
            texts.setdefault(prompt_id, {})[text] = None
    known = {pair.key for pair in asked}
    found = []
    for prompt_id, distinct in texts.items():
        order = [list(distinct)[i] for i in rng.permutation(len(distinct))]
        pairs = [Pair(prompt_id, a, b) for a, b in combinations(order, 2)]
        fresh = [pair for pair in pairs if pair.key not in known]
        found += [fresh[i] for i in rng.permutation(len(fresh))[:per_prompt]]
    return found


def choose(
    pairs: Sequence[Pair],
    prompts: Mapping[str, Mapping[str, Any]],
    ask: AskSection,
    scores: Floats | None,
    rng: np.random.Generator,
) -> tuple[list[Pair], str]:
    """(pairs to ask about, name of the selection that chose them).

    `prompts`: prompt_id → PROMPT row; `scores` [pairs, 2, members], None where no reward model is there yet: what
    would need them is random then. Raises DataError where there is no pair.
    """
    if not pairs:
        raise DataError(
            "no prompt has two different responses that were not asked about before; raise sample.temperature, "
            "sample.n_samples_per_prompt or sample.prompts"
        )
    name = "random" if scores is None and ask.needs_scores else ask.selection
    texts = [
        "\n".join([prompt_text(json.loads(prompts[pair.prompt_id]["messages"])), pair.first, pair.second])
        for pair in pairs
    ]
    given = np.zeros((len(pairs), 2, 0)) if scores is None else scores
    order = selection_named(name).order(Candidates(given, hashed_ngrams(texts)), ask.pairs, rng)
    return [pairs[place] for place in order], name


def item_rows(
    pairs: Sequence[Pair], prompts: Mapping[str, Mapping[str, Any]], ask: AskSection, run: str, number: int
) -> list[dict[str, Any]]:
    """Rows for POST /api/items, whose ids depend on nothing but run, round and content: sent again, they are the same.

    Those that were chosen first are asked first.
    """
    rows = []
    for place, pair in enumerate(pairs):
        prompt = prompts[pair.prompt_id]
        rows.append(
            {
                "item_id": item_id(pair, run, number),
                "prompt_id": pair.prompt_id,
                "messages": json.loads(prompt["messages"]),
                "media_ids": prompt["media_ids"],
                "task": prompt["task"],
                "extras": json.loads(prompt["extras"]),
                "question": ask.question,
                "responses": [
                    {"text": text, "source": f"{run}/round-{number:02d}"} for text in (pair.first, pair.second)
                ],
                "overlap": ask.overlap,
                "priority": float(len(pairs) - place),
                "round": number,
            }
        )
    return rows


def item_id(pair: Pair, run: str, number: int) -> str:
    """Of the question about `pair` in round `number` of a run of that name."""
    content = json.dumps([run, number, pair.prompt_id, pair.first, pair.second], ensure_ascii=False)
    return hashlib.sha256(content.encode()).hexdigest()[:_ID_CHARS]


def pair_of(row: Mapping[str, Any]) -> Pair:
    """The pair that a row of item_rows() asks about."""
    first, second = (response["text"] for response in row["responses"])
    return Pair(row["prompt_id"], first, second)
