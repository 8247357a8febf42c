"""A simulated annotator of Omni-Digits as a client of the feedback server: leases, looks, answers, as people do.

Run by `mmrlhf iterate`, which writes one line of JSON to its standard input; see docs/feedback.md. It works until it
is ended. How it votes depends on itself, the seed and the item alone, not on when or in which order it is asked.
"""

import hashlib
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

import httpx
import numpy as np
import pyarrow.parquet as pq
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from mmrlhf_ray.config.section import Section
from mmrlhf_ray.demo.annotators import ANNOTATORS, Annotator, choose_ranks
from mmrlhf_ray.demo.gold import gold_reward
from mmrlhf_ray.feedback.client import Trouble, connect, described, until_answered

_GOOD = 1.6
"""Gold reward of the best response."""
_LONGEST_WAIT_S = 0.5
_TIMEOUT_S = 30.0
_CONFLICT, _GONE = 409, 410


class Options(Section):
    """`annotators.options` of the job."""

    prompts: str
    """Directory of the prompts, whose extras hold the truth: nobody tells an annotator over HTTP."""
    noise: PositiveFloat = 1.0
    """Times each annotator's own temperature, side and length bias: small = everybody is reliable."""
    max_response_tokens: PositiveInt = 24
    """Responses of as many words were cut off."""
    both_bad_below: float = 0.3
    """Two responses that are about equal and both worth less are called both bad."""
    think_s: NonNegativeFloat = 0.0
    """Mean time over an item, exponentially distributed."""
    poll_s: PositiveFloat = 0.2
    """How long to wait where there is nothing to do."""
    look: bool = True
    """Fetch the media of each item, as a browser does."""


class Assignment(Section):
    """The line that the loop writes: where to work, as whom, and how."""

    url: str
    token: str = Field(repr=False)
    name: str
    number: int
    seed: int
    options: Options


@dataclass(frozen=True)
class Judgement:
    """One annotator's opinion of the responses to one item, in the order shown."""

    ranks: tuple[int, ...]
    """1 = best, equal = tie."""
    gold: tuple[float, ...]
    """Their gold scores."""
    both_bad_below: float


def person(number: int, noise: float) -> Annotator:
    """One of ANNOTATORS, whose order is that of their reliability; after the last the first comes again."""
    who = ANNOTATORS[number % len(ANNOTATORS)]
    return replace(
        who,
        temperature=who.temperature * noise,
        side_bias=who.side_bias * noise,
        length_bias=who.length_bias * noise,
    )


def judge(who: Annotator, texts: Sequence[str], truth: Mapping[str, Any], told: Assignment, item_id: str) -> Judgement:
    """Ranks by noisy Bradley–Terry comparisons of the texts, two of them; `truth` is the prompt's extras."""
    options = told.options
    # All an annotator sees is the text; the demo's tokens are words, and one more ends a response.
    words = [len(text.split()) for text in texts]
    cut = [count >= options.max_response_tokens for count in words]
    tokens = [count + (not short) for count, short in zip(words, cut, strict=True)]
    gold = [
        gold_reward(text, "length" if short else "stop", count, truth).total
        for text, short, count in zip(texts, cut, tokens, strict=True)
    ]
    rng = np.random.default_rng([told.seed, told.number, *hashlib.sha256(item_id.encode()).digest()[:8]])
    return Judgement(tuple(choose_ranks(who, gold, tokens, rng)), tuple(gold), options.both_bad_below)


def _pair(judged: Judgement, item: Mapping[str, Any]) -> dict[str, Any]:
    first, second = judged.ranks
    if first != second:
        return {"choice": "left" if first < second else "right"}
    return {"choice": "both_bad" if max(judged.gold) < judged.both_bad_below else "tie"}


def _rank(judged: Judgement, item: Mapping[str, Any]) -> dict[str, Any]:
    return {"ranks": list(judged.ranks)}


def _rate(judged: Judgement, item: Mapping[str, Any]) -> dict[str, Any]:
    """The gold reward on a scale of five; the ranks say which response gets the higher rating, and whether one does."""
    scale = [1 + min(4, max(0, math.floor(5 * value / _GOOD))) for value in judged.gold]
    low, high = min(scale), max(scale)
    if len(set(judged.ranks)) == 1:
        low = high = round((low + high) / 2)
    elif low == high:
        low, high = (low - 1, high) if low > 1 else (low, high + 1)
    ratings = [high if rank == 1 else low for rank in judged.ranks]
    return {"ratings": [{aspect["name"]: value for aspect in item["aspects"]} for value in ratings]}


_ANSWERS: Mapping[str, Callable[[Judgement, Mapping[str, Any]], dict[str, Any]]] = {
    "pair": _pair,
    "rank": _rank,
    "rate": _rate,
}


def work(told: Assignment, http: httpx.Client, truths: Mapping[str, Mapping[str, Any]]) -> None:
    """Answer items forever. A server that is away for a moment is asked again."""
    who = person(told.number, told.options.noise)
    rng = np.random.default_rng([told.seed, told.number])
    while True:
        leased = _answered(lambda: http.post("/api/lease"))
        if leased.status_code == httpx.codes.NO_CONTENT:
            time.sleep(told.options.poll_s)
            continue
        item = leased.raise_for_status().json()
        started = time.monotonic()
        for medium in item["media"] if told.options.look else ():
            url = medium["url"]
            _answered(lambda url=url: http.get(url)).raise_for_status()  # type: ignore[misc]
        time.sleep(rng.exponential(told.options.think_s) if told.options.think_s else 0.0)
        judged = judge(who, item["responses"], truths[item["prompt_id"]], told, item["item_id"])
        vote = {
            "vote_id": str(uuid4()),
            "item_id": item["item_id"],
            "answer": _ANSWERS[item["question"]](judged, item),
            "milliseconds": round(1000 * (time.monotonic() - started)),
        }
        stored = _answered(lambda vote=vote: http.post("/api/votes", json=vote))  # type: ignore[misc]
        if stored.status_code not in (_CONFLICT, _GONE):  # then others were quicker: on to the next
            stored.raise_for_status()


def _answered(send: Callable[[], httpx.Response]) -> httpx.Response:
    """The server's answer, however long it is away."""

    def wait(seconds: float, trouble: Trouble) -> bool:
        print(f"the server is away: {described(trouble)}", file=sys.stderr, flush=True)
        time.sleep(seconds)
        return True

    answer = until_answered(send, wait, _LONGEST_WAIT_S)
    assert answer is not None  # nothing is given up
    return answer


def main() -> None:
    """Read the assignment, then work."""
    told = Assignment.model_validate_json(sys.stdin.readline())
    table = pq.read_table(f"{told.options.prompts}/records.parquet", columns=["prompt_id", "extras"])
    truths = {row["prompt_id"]: json.loads(row["extras"]) for row in table.to_pylist()}
    with connect(told.url, told.token, _TIMEOUT_S) as http:
        work(told, http, truths)


if __name__ == "__main__":
    main()
