"""From a run's responses, or rows of any format of docs/data.md, to questions for people."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmrlhf_ray.config import DataConfig, FeedbackConfig
from mmrlhf_ray.data.records.store import LoadedRow
from mmrlhf_ray.errors import DataError
from mmrlhf_ray.feedback.client import AddedCounts, ItemsClient
from mmrlhf_ray.feedback.episodes import EpisodeTurn, transcript, turn_json, turn_of
from mmrlhf_ray.feedback.questions import AnswerError, question_of
from mmrlhf_ray.pipelines.data.rows import Stages, checked_rows, open_data
from mmrlhf_ray.pipelines.runs.rollouts import kept_steps, read_step
from mmrlhf_ray.reports.media import find_media

if TYPE_CHECKING:
    from mmrlhf_ray.feedback.collect.database import Database

_PROMPT = ("prompt_id", "messages", "media_ids", "task", "extras")
_ANSWERS = ("chosen", "rejected", "response")
_COLUMNS = (*_PROMPT, "group_id", "media", "policy", "step", "text", "turns", "score")


@dataclass(frozen=True)
class Candidate:
    """A response."""

    text: str
    source: str
    score: float | None = None
    """The reward model's; None where there is none."""
    turns: tuple[EpisodeTurn, ...] = ()
    """Of an episode, whose transcript `text` then is."""


@dataclass(frozen=True)
class Asked:
    """A prompt, and the responses to it."""

    prompt: Mapping[str, Any]
    """prompt_id, messages, media_ids, task and extras of an item."""
    responses: tuple[Candidate, ...]
    media: Mapping[str, tuple[str, bytes]]
    """media_id → (kind, encoded bytes)."""
    lacking: bool = False
    """Some of what the prompt shows is not there any more."""


@dataclass(frozen=True)
class Questions:
    """Items for the queue."""

    items: tuple[dict[str, Any], ...]
    media: Mapping[str, tuple[str, bytes]]
    without_media: int
    """Prompts left out, as the run kept too little of what they show (media_kept_mb)."""
    too_few: int
    """Prompts left out, as they have too few different responses for the question."""


@dataclass(frozen=True)
class Ask:
    """What is asked about each prompt."""

    question: str
    per_prompt: int = 1
    overlap: int | None = None
    priority: float = 0.0
    round: int = 0
    seed: int = 0
    suggest: bool = False
    """Pairs and rankings carry the order of the scores as a suggestion."""
    assigned: str = ""
    """The account, or `@` and the group, that alone is asked; "" = everyone."""


def read_asked(path: Path, step: int | None = None) -> list[Asked]:
    """The prompts and responses of a run's directory, or of a file or directory of rows.

    `step`: of an online run; the last that was kept where it is None. Raises DataError where there is nothing to ask.
    """
    steps = kept_steps(path) if path.is_dir() else {}
    if not steps:
        if step is not None:
            raise DataError(f"{path}: holds no steps of a run, so leave out --step")
        return list(_of_rows(path))
    chosen = max(steps) if step is None else step
    if chosen not in steps:
        raise DataError(f"{path}: step {chosen} was not kept; expected one of {', '.join(map(str, steps))}")
    return list(_of_run(path, steps[chosen]))


def compared(first: Sequence[Asked], second: Sequence[Asked]) -> list[Asked]:
    """Each prompt that both have, with one response of each, the first. Raises DataError where there is none."""
    others = {asked.prompt["prompt_id"]: asked for asked in second if asked.responses}
    found = []
    for asked in first:
        other = others.get(asked.prompt["prompt_id"])
        if other is not None and asked.responses:
            found.append(
                Asked(
                    asked.prompt,
                    (asked.responses[0], other.responses[0]),
                    {**other.media, **asked.media},
                    asked.lacking and other.lacking,
                )
            )
    if not found:
        raise DataError("the two have no prompt_id in common; give two runs that answered the same prompts")
    return found


def questions(found: Iterable[Asked], ask: Ask) -> Questions:
    """Items about the prompts: of each at most `per_prompt`, drawn by the seed. Raises DataError for an unknown
    kind."""
    try:
        sizes = question_of(ask.question).responses
    except AnswerError as error:
        raise DataError(str(error)) from error
    rng = np.random.default_rng(ask.seed)
    items: list[dict[str, Any]] = []
    media: dict[str, tuple[str, bytes]] = {}
    without_media = too_few = 0
    for asked in found:
        if asked.lacking:
            without_media += 1
            continue
        chosen = _choose(_distinct(asked.responses), sizes, ask.per_prompt, rng)
        too_few += not chosen
        if chosen:
            media |= asked.media
        items += [_item(asked.prompt, responses, ask) for responses in chosen]
    return Questions(tuple(items), media, without_media, too_few)


def _distinct(responses: Sequence[Candidate]) -> list[Candidate]:
    """Empty responses are no question, and equal ones are one."""
    return list({response.text: response for response in reversed(responses) if response.text.strip()}.values())[::-1]


def _choose(
    responses: Sequence[Candidate], sizes: range, per_prompt: int, rng: np.random.Generator
) -> list[tuple[Candidate, ...]]:
    """Responses of each item: several of pairs and of single responses; of longer lists one, as long as may be."""
    if sizes[-1] == 0:
        return [()]
    if len(responses) < sizes[0]:
        return []
    mixed = [responses[i] for i in rng.permutation(len(responses))]
    groups = list(combinations(mixed, min(len(mixed), sizes[-1]))) if sizes[-1] <= 2 else [tuple(mixed[: sizes[-1]])]
    return [groups[i] for i in rng.permutation(len(groups))[:per_prompt]]


def _item(prompt: Mapping[str, Any], responses: Sequence[Candidate], ask: Ask) -> dict[str, Any]:
    item = {
        **prompt,
        "question": ask.question,
        "responses": [_response(response) for response in responses],
        "priority": ask.priority,
        "round": ask.round,
    }
    if ask.overlap is not None:
        item["overlap"] = ask.overlap
    if ask.assigned:
        item["assigned"] = ask.assigned
    scores = [response.score for response in responses]
    if ask.suggest and ask.question in ("pair", "rank") and None not in scores:
        item["suggestion"] = {"answer": _by_score(ask.question, scores), "source": f"score of {responses[0].source}"}
    return item


def _response(response: Candidate) -> dict[str, Any]:
    said = {"turns": [turn_json(turn) for turn in response.turns]} if response.turns else {"text": response.text}
    return said | {"source": response.source}


def _by_score(question: str, scores: Sequence[float | None]) -> dict[str, Any]:
    """The answer that puts the responses in the order of their scores; equal ones tie."""
    distinct = sorted({score for score in scores if score is not None}, reverse=True)
    ranks = [distinct.index(score) + 1 for score in scores if score is not None]
    if question == "rank":
        return {"ranks": ranks}
    return {"choice": "tie" if ranks[0] == ranks[1] else "left" if ranks[0] == 1 else "right"}


def _of_run(run_dir: Path, file: Path) -> Iterator[Asked]:
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in read_step(file).select(list(_COLUMNS)).to_pylist():
        if row["media"] != "swapped":
            groups.setdefault((row["group_id"], row["prompt_id"]), []).append(row)
    for rows in groups.values():
        first = rows[0]
        if first["messages"] is None:
            raise DataError(f"{file}: an earlier version wrote it, without the prompts; run the job again")
        episodes = [tuple(turn_of(turn) for turn in json.loads(row["turns"] or "[]")) for row in rows]
        later = {media_id for turns in episodes for turn in turns for media_id in turn.media_ids}
        wanted = {*first["media_ids"], *later}
        kept = {media_id: find_media(run_dir, media_id) for media_id in wanted}
        media = {i: (own[1].partition("/")[0], own[0].read_bytes()) for i, own in kept.items() if own is not None}
        prompt = {name: first[name] for name in _PROMPT}
        prompt |= {"messages": json.loads(first["messages"]), "extras": json.loads(first["extras"] or "{}")}
        source = f"{run_dir.resolve().name}/{first['policy']}-{first['step']}"
        responses = tuple(
            Candidate(transcript(turns) or row["text"], source, _known(row["score"]), turns)
            for row, turns in zip(rows, episodes, strict=True)
        )
        yield Asked(prompt, responses, media, lacking=len(media) < len(wanted))


def _of_rows(path: Path) -> Iterator[Asked]:
    for row in checked_rows(open_data(DataConfig(path=str(path))), Stages()):
        if not isinstance(row, LoadedRow):
            raise DataError(f"{row.bad}; `mmrlhf data check {path}` names every bad row")
        record = row.record
        prompt = {name: record[name] for name in _PROMPT}
        prompt |= {"messages": json.loads(record["messages"]), "extras": json.loads(record["extras"])}
        texts = record.get("responses") or [record[name] for name in _ANSWERS if record.get(name)]
        media = {medium["media_id"]: (medium["kind"], medium["data"]) for medium in row.media}
        yield Asked(prompt, tuple(Candidate(text, path.name) for text in texts), media)


def _known(score: float | None) -> float | None:
    return score if score is not None and math.isfinite(score) else None


def put_into_database(
    found: Questions, database: "Database", config: FeedbackConfig, project: str = "default"
) -> AddedCounts:
    """Put the questions into a project of a database of this machine, all or none. Raises as add_items() and
    store_media()."""
    from mmrlhf_ray.feedback.collect.items import add_items
    from mmrlhf_ray.feedback.collect.media_files import store_media
    from mmrlhf_ray.feedback.collect.tables import COMMAND, note

    now = datetime.now(UTC)
    with database.write() as session:
        for media_id, (kind, data) in found.media.items():
            store_media(session, config, media_id, data, kind)
        added = add_items(session, found.items, config, now, project)
        note(session, now, COMMAND, "items added", project, str(added.added))
    return AddedCounts(added.added, added.present)


def put_on_server(found: Questions, client: ItemsClient, project: str = "default") -> AddedCounts:
    """Put the questions into the queue of a project of a server. Raises RunError."""
    for kind, data in found.media.values():
        client.add_media(data, kind)
    return client.add_items(found.items, project)
