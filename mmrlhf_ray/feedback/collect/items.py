"""Putting questions into the queue."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from mmrlhf_ray.config import FeedbackConfig
from mmrlhf_ray.data.errors import RowError
from mmrlhf_ray.data.validate import MediaPart, Shown, build_record, conversation, string_list, text
from mmrlhf_ray.feedback.collect.projects import assign, find_project, rules_of
from mmrlhf_ray.feedback.collect.queue import asked_of, plain
from mmrlhf_ray.feedback.collect.suggestions import checked_suggestion
from mmrlhf_ray.feedback.collect.tables import DEFAULT_PROJECT, Item, MediaFile
from mmrlhf_ray.feedback.episodes import TURN_KINDS, EpisodeTurn, transcript, turn_json
from mmrlhf_ray.feedback.errors import Conflict, Invalid, Unknown
from mmrlhf_ray.feedback.questions import AnswerError, question_of
from mmrlhf_ray.schema import PROMPT

EVERYBODY = 1_000_000
"""Overlap of gold questions that do not say otherwise: they test each annotator."""

_MOST_TURNS = 200
_OURS = ("item_id", "responses", "question", "overlap", "priority", "round", "gold", "suggestion", "assigned")
_SAME = ("project", "prompt_id", "messages", "media_ids", "task", "responses", "question", "gold")


@dataclass(frozen=True)
class Added:
    """The outcome of adding rows."""

    added: int
    present: int
    """Were there already, with the same content."""
    item_ids: tuple[str, ...]
    """In the order of the rows."""


def add_items(
    session: Session, rows: Sequence[Any], config: FeedbackConfig, now: datetime, project: str = DEFAULT_PROJECT
) -> Added:
    """Put rows into the queue of a project, all or none; rows that are there already change nothing.

    A row is a prompt as in data.path (`messages` or `prompt`, `media_ids`, `task`, `extras`, …) with `question`,
    `responses` (texts, {"text", "source"}, or {"turns", "source"} of episodes), and if wanted `item_id`, `overlap`,
    `priority`, `round`, `gold`: the answer, as if the responses were shown in the order given, `suggestion`:
    {"answer", "source"} of a model, and `assigned`: the account, or `@` and the group, that alone is to answer. Raises
    Unknown for a project that is not there, Invalid and Conflict, which name the row.
    """
    rules = rules_of(find_project(session, project))
    config = rules.in_force(config)
    position = session.scalar(select(func.max(Item.position))) or 0
    ids, added = [], 0
    for number, row in enumerate(rows):
        try:
            item = _item(session, row, project, config, now)
            if item.question not in rules.kinds:
                raise Invalid(f"the project {project!r} takes {', '.join(rules.kinds)}", "question")
            known = session.get(Item, item.id)
            if known is None:
                _check_prompt(session, item)
                item.position = position = position + 1
                session.add(item)
                session.flush()
                if row.get("suggestion") is not None:
                    session.add(checked_suggestion(row["suggestion"], item, config, now))
                added += 1
            else:
                _check_same(known, item)
        except RowError as error:
            raise Invalid(str(error), f"items[{number}]") from error
        except (AnswerError, Invalid, Conflict, Unknown) as error:
            kind = Conflict if isinstance(error, Conflict) else Invalid
            field = f"items[{number}]" + (f".{error.field}" if error.field else "")
            raise kind(error.problem, field) from error
        ids.append(item.id)
    return Added(added, len(ids) - added, tuple(ids))


def prompt_record(session: Session, raw: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the PROMPT table, whose media are stored already. Raises RowError."""
    messages, parts = conversation(raw)
    return build_record(raw, PROMPT, messages, _shown(session, raw, parts))


def _item(session: Session, row: Any, project: str, config: FeedbackConfig, now: datetime) -> Item:
    if not isinstance(row, dict):
        raise Invalid(f"expected an object, got {type(row).__name__}")
    raw = {key: value for key, value in row.items() if key not in _OURS and value is not None}
    record = prompt_record(session, raw)
    question = question_of(text(row.get("question"), "question"))
    responses = _responses(session, row.get("responses"), config)
    if len(responses) not in question.responses:
        low, high = question.responses[0], question.responses[-1]
        raise Invalid(
            f"a {question.kind} question takes {low if low == high else f'{low} to {high}'} responses, got "
            f"{len(responses)}",
            "responses",
        )
    gold = row.get("gold")
    item = Item(
        project=project,
        prompt_id=record["prompt_id"],
        messages=json.loads(record["messages"]),
        media_ids=record["media_ids"],
        task=record["task"],
        modality=record["modality"],
        extras=json.loads(record["extras"]),
        responses=responses,
        question=question.kind,
        priority=_number(row, "priority"),
        round=_whole(row, "round", 0, 0, 1_000_000),
        votes=0,
        created=now,
    )
    assign(session, item, text(row.get("assigned", ""), "assigned"))
    wanted = EVERYBODY if gold is not None else 1 if item.assigned_person else config.overlap
    item.overlap = _whole(row, "overlap", wanted, 1, EVERYBODY)
    asked = asked_of(item, range(len(responses)), config)
    if question.shows and not set(question.shows) & set(asked.media):
        shows = " or ".join(question.shows)
        raise Invalid(f"a {question.kind} question is about {shows}, and the prompt shows none", "media_ids")
    if gold is not None:
        if not isinstance(gold, dict):
            raise Invalid(f"expected an answer, got {type(gold).__name__}", "gold")
        item.gold = plain(question.check(gold, asked))
    item.id = _item_id(row, item)
    return item


def _item_id(row: Mapping[str, Any], item: Item) -> str:
    """The name given, or one by content."""
    if row.get("item_id") is None:
        about = [item.prompt_id, item.question, item.responses, item.round, item.gold]
        content = json.dumps(about if item.project == DEFAULT_PROJECT else [*about, item.project])
        return hashlib.sha256(content.encode()).hexdigest()[:32]
    name = text(row["item_id"], "item_id")
    if not 1 <= len(name) <= 64 or not name.isprintable():
        raise Invalid("expected 1 to 64 printable characters", "item_id")
    return name


def _responses(session: Session, given: Any, config: FeedbackConfig) -> list[dict[str, Any]]:
    if not isinstance(given, list):
        raise Invalid("expected a list of texts, [] for a demonstration", "responses")
    found = []
    for i, response in enumerate(given):
        entry = {"text": response} if isinstance(response, str) else response
        if not isinstance(entry, dict) or not set(entry) <= {"text", "source", "turns"}:
            raise Invalid('expected text, {"text": …, "source": …} or {"turns": …, "source": …}', f"responses[{i}]")
        turns = _turns(session, entry.get("turns"), f"responses[{i}].turns")
        written = transcript(turns)
        if turns and entry.get("text", written) != written:
            raise Invalid("the text of an episode is made of its turns; leave it out", f"responses[{i}].text")
        checked: dict[str, Any] = {
            "text": written or text(entry.get("text"), f"responses[{i}].text"),
            "source": text(entry.get("source", ""), f"responses[{i}].source"),
        }
        if turns:
            checked["turns"] = [turn_json(turn) for turn in turns]
        if len(checked["text"]) > config.max_text_chars:
            raise Invalid(
                f"has {len(checked['text'])} characters, max_text_chars is {config.max_text_chars}", f"responses[{i}]"
            )
        found.append(checked)
    return found


def _turns(session: Session, given: Any, field: str) -> list[EpisodeTurn]:
    """Of an episode, whose media are all stored; [] for a response of one turn."""
    if given is None:
        return []
    if not isinstance(given, list) or not 1 <= len(given) <= _MOST_TURNS:
        raise Invalid(f"expected a list of 1 to {_MOST_TURNS} turns", field)
    found = []
    for i, entry in enumerate(given):
        if not isinstance(entry, dict) or not set(entry) <= {"kind", "text", "media_ids"}:
            raise Invalid('expected {"kind", "text", "media_ids"}', f"{field}[{i}]")
        if entry.get("kind") not in TURN_KINDS:
            raise Invalid(f"expected one of {', '.join(TURN_KINDS)}", f"{field}[{i}].kind")
        turn = EpisodeTurn(
            entry["kind"], text(entry.get("text", ""), f"{field}[{i}].text"), tuple(string_list(entry, "media_ids"))
        )
        known = set(session.scalars(select(MediaFile.media_id).where(MediaFile.media_id.in_(turn.media_ids))))
        for media_id in turn.media_ids:
            if media_id not in known:
                raise Invalid("this medium is not there; upload it first: PUT /api/media/<sha256>", f"{field}[{i}]")
        found.append(turn)
    if found[-1].kind != "response" or not transcript(found).strip():
        raise Invalid("an episode ends with a turn of the policy, and says something", field)
    return found


def _shown(session: Session, raw: Mapping[str, Any], parts: Sequence[MediaPart]) -> list[Shown]:
    """Media of the row: all named by media_ids, and uploaded before."""
    named = [part.path for part in parts if part.path is not None]
    if named or any(raw.get(key) for key in ("images", "audios", "videos")):
        raise RowError("media are named by path", "upload them (PUT /api/media/<sha256>) and give media_ids")
    ids = string_list(raw, "media_ids")
    found = {row.media_id: row.kind for row in session.query(MediaFile).where(MediaFile.media_id.in_(ids))}
    unknown = [media_id for media_id in ids if media_id not in found]
    if unknown:
        raise RowError(f"media_id {unknown[0][:80]!r} is not there", "upload it first: PUT /api/media/<sha256>")
    kinds, wanted = [found[media_id] for media_id in ids], [part.kind for part in parts]
    if kinds != wanted:
        raise RowError(f"the messages show {wanted} but media_ids are {kinds}", "give one media part per media_id")
    return [Shown(kind, media_id, media_id) for kind, media_id in zip(kinds, ids, strict=True)]


def _check_prompt(session: Session, item: Item) -> None:
    """One prompt_id stands for one prompt."""
    other = session.scalar(select(Item).where(Item.prompt_id == item.prompt_id).limit(1))
    if other is not None and (other.messages, other.media_ids) != (item.messages, item.media_ids):
        raise Conflict(
            "this prompt_id stands for another prompt already; give the prompt a name of its own", "prompt_id"
        )


def _check_same(known: Item, item: Item) -> None:
    differs = [name for name in _SAME if getattr(known, name) != getattr(item, name)]
    if differs:
        raise Conflict(
            f"item {known.id!r} is there already with other {differs[0]}; give it another item_id", "item_id"
        )


def _whole(row: Mapping[str, Any], key: str, default: int, low: int, high: int) -> int:
    value = row.get(key, default)
    if type(value) is not int or not low <= value <= high:
        raise Invalid(f"expected a whole number from {low} to {high}, got {value!r:.40}", key)
    return value


def _number(row: Mapping[str, Any], key: str) -> float:
    value = row.get(key, 0.0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= 1e300:
        raise Invalid(f"expected a finite number, got {value!r:.40}", key)
    return float(value)
