"""Kept responses of a run, step by step: which groups are shown, in which order, and how their tokens are coloured."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mmrlhf_ray.reports.prompts import Message, shown_messages
from mmrlhf_ray.reports.tokens import Token, token_scale, tokens_of
from mmrlhf_ray.schema import RESPONSE

_MOST_GROUPS = 12
_MOST_TOKENS = 30_000
"""On a page, about."""
Order = Literal["drawn", "worst", "best", "spread"]
ORDERS: tuple[Order, ...] = get_args(Order)
_ROLLOUTS = "rollouts"
_RESPONSES = "responses.parquet"
_CHOICES = ("task", "modality", "finish_reason", "policy", "media")
"""Columns that responses can be chosen by."""


def kept_steps(run_dir: Path) -> dict[int, Path]:
    """Step → file of its kept responses, in order; those of an evaluation are step 0."""
    files = sorted((run_dir / _ROLLOUTS).glob("step-*.parquet"))
    steps = {int(file.stem.removeprefix("step-")): file for file in files}
    responses = run_dir / _RESPONSES
    return steps or ({0: responses} if responses.is_file() else {})


def read_step(file: Path) -> pa.Table:
    """RESPONSE of a file, the newest few remembered. Columns that an earlier version did not write are null."""
    return _read(file, file.stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _read(file: Path, changed: int) -> pa.Table:
    table = pq.read_table(file)
    for field in RESPONSE:
        if field.name not in table.column_names:
            table = table.append_column(field.name, pa.nulls(len(table), field.type))
    return table.select(RESPONSE.names)


@dataclass(frozen=True)
class Wanted:
    """Which responses are looked for. "" and None choose nothing."""

    choices: Mapping[str, str]
    """Column of _CHOICES → value."""
    low: float | None = None
    high: float | None = None
    """Bounds of the score."""
    text: str = ""
    """Occurs in prompt, response, ground truth or prompt_id, in whatever case."""
    order: Order = "drawn"
    page: int = 1

    @classmethod
    def of(cls, query: Mapping[str, str]) -> "Wanted":
        """What an address asks for; what makes no sense in it is left out."""
        order: Order = next((one for one in ORDERS if one == query.get("order")), "drawn")
        page = query.get("page", "")
        return cls(
            {name: query[name] for name in _CHOICES if query.get(name)},
            _number(query.get("low", "")),
            _number(query.get("high", "")),
            query.get("text", ""),
            order,
            max(1, int(page)) if page.isdecimal() and len(page) < 9 else 1,
        )


@dataclass(frozen=True)
class Turn:
    """A part of an episode: what the policy wrote, or what it was shown."""

    observed: bool
    text: str
    tokens: tuple[Token, ...]
    """Of what it wrote; none where they were not kept."""
    clips: tuple[Mapping[str, Any], ...]
    """Parts as templates/parts.html.j2 takes them."""
    reward: float | None
    problem: str


@dataclass(frozen=True)
class Sample:
    """One response."""

    row: Mapping[str, Any]
    """Of RESPONSE."""
    wanted: bool
    """It is one of those that were looked for; the others of its group stand next to it."""
    tokens: tuple[Token, ...]

    @property
    def components(self) -> dict[str, float | None]:
        found: dict[str, float | None] = json.loads(self.row["components"] or "{}")
        return found

    @cached_property
    def turns(self) -> tuple[Turn, ...]:
        """Of an episode; none where the response is one turn."""
        return tuple(
            Turn(
                turn["kind"] == "observation",
                turn["text"],
                self.tokens[turn["start"] : turn["end"]],
                tuple({"type": k, "media_id": m} for k, m in zip(turn["shows"], turn["media_ids"], strict=True)),
                turn["reward"],
                turn["problem"],
            )
            for turn in json.loads(self.row["turns"] or "[]")
        )

    @property
    def versions(self) -> str:
        """Which policy versions sampled it, as `3` or `3–4`."""
        versions = [span["version"] for span in self.row["versions"] or []]
        return "" if not versions else f"{versions[0]}" + (f"–{versions[-1]}" if versions[-1] != versions[0] else "")

    @property
    def ratio(self) -> float:
        """The ratio that is furthest from 1; NaN where none is known."""
        ratios = np.array(self.row["ratios"] or [math.nan], np.float64)
        known = ratios[np.isfinite(ratios) & (ratios > 0)]
        return float(known[np.abs(np.log(known)).argmax()]) if len(known) else math.nan


@dataclass(frozen=True)
class Group:
    """The responses to one prompt, the best first."""

    samples: tuple[Sample, ...]

    @property
    def row(self) -> Mapping[str, Any]:
        """What all have in common: the prompt."""
        return self.samples[0].row

    @cached_property
    def messages(self) -> list[Message]:
        """Empty where an earlier version did not keep them."""
        return shown_messages(self.row["messages"] or "[]", self.row["media_ids"] or [])

    @property
    def truth(self) -> dict[str, str]:
        """What is known of the prompt, as text."""
        extras = json.loads(self.row["extras"] or "{}")
        return {key: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for key, v in extras.items()}

    @property
    def score(self) -> float:
        """Mean over the responses that have one; NaN without any."""
        return _mean([sample.row["score"] for sample in self.samples])


@dataclass(frozen=True)
class Selection:
    """One page of groups."""

    groups: tuple[Group, ...]
    found: int
    """Groups on all pages."""
    responses: int
    """Responses that were looked for, on all pages."""
    page: int
    pages: int


def choices(table: pa.Table) -> dict[str, list[str]]:
    """Column → the values that there are, where there are several."""
    found = {name: sorted(pc.unique(table.column(name)).drop_null().to_pylist()) for name in _CHOICES}
    return {name: values for name, values in found.items() if len(values) > 1}


def select(table: pa.Table, wanted: Wanted, most: int = _MOST_GROUPS) -> Selection:
    """The groups of RESPONSE rows that have a response that is looked for, one page of them: at most `most` groups, and
    fewer where responses are long."""
    hits = _hits(table, wanted)
    rows: dict[Any, list[int]] = {}
    for number, key in enumerate(_keys(table)):
        rows.setdefault(key, []).append(number)
    scores = table.column("score").to_numpy()
    found = [own for own in rows.values() if hits[own].any()]
    found.sort(key=lambda own: _rank(scores[own], wanted.order))  # which keeps the order of those that are equal
    tokens = (pc.sum(table.column("response_tokens")).as_py() or 0) / max(1, len(rows))
    per_page = max(1, min(most, int(_MOST_TOKENS / max(1.0, tokens))))
    pages = max(1, -(-len(found) // per_page))
    page = min(wanted.page, pages)
    shown = found[(page - 1) * per_page : page * per_page]
    parts = [table.take(pa.array(own, pa.int64())).to_pylist() for own in shown]
    scale = token_scale([row for part in parts for row in part])
    groups = tuple(
        Group(tuple(_best_first(Sample(row, bool(hits[n]), tokens_of(row, scale)) for n, row in zip(own, part))))
        for own, part in zip(shown, parts, strict=True)
    )
    return Selection(groups, len(found), int(hits.sum()), page, pages)


def _best_first(samples: Any) -> list[Sample]:
    return sorted(samples, key=lambda sample: _low(sample.row["score"]), reverse=True)


def _hits(table: pa.Table, wanted: Wanted) -> np.ndarray:
    """bool [rows]."""
    hits = np.ones(len(table), bool)
    for name, value in wanted.choices.items():
        hits &= _bools(pc.equal(table.column(name), value))
    scores = table.column("score").to_numpy()
    for bound, fits in ((wanted.low, np.greater_equal), (wanted.high, np.less_equal)):
        if bound is not None:
            hits &= fits(scores, bound)
    if wanted.text:
        said = np.zeros(len(table), bool)
        for name in ("text", "messages", "extras", "prompt_id"):
            said |= _bools(pc.match_substring(table.column(name), wanted.text, ignore_case=True))
        hits &= said
    return hits


def _bools(column: pa.ChunkedArray) -> np.ndarray:
    return pc.fill_null(column, False).to_numpy()


def _keys(table: pa.Table) -> list[Any]:
    """Of each row what its group has in common; an earlier version named the prompt alone."""
    groups, prompts = table.column("group_id").to_pylist(), table.column("prompt_id").to_pylist()
    return [(group, prompt) for group, prompt in zip(groups, prompts, strict=True)]


def _rank(scores: np.ndarray, order: Order) -> float:
    known = scores[np.isfinite(scores)]
    if order == "drawn" or not len(known):
        return math.inf if order != "drawn" else 0.0
    return float({"worst": known.mean(), "best": -known.mean(), "spread": -np.ptp(known)}[order])


def _low(score: float | None) -> float:
    return -math.inf if score is None or math.isnan(score) else score


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return sum(known) / len(known) if known else math.nan


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
