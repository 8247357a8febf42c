"""Answers that a reward model or a judge would give: kept apart from votes, and shown to people only if that is wanted.

No vote, figure or record is made of a suggestion. Whoever weighs votes can find out who had seen one.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from mmrlhf_ray.config import FeedbackConfig
from mmrlhf_ray.feedback.collect.queue import Leased, asked_of, plain
from mmrlhf_ray.feedback.collect.tables import Item, Suggestion, SuggestionSeen
from mmrlhf_ray.feedback.errors import Invalid
from mmrlhf_ray.feedback.questions import AnswerError, question_of
from mmrlhf_ray.feedback.regions import region_of, renumbered

_MOST_SOURCE = 200


def checked_suggestion(given: Any, item: Item, config: FeedbackConfig, now: datetime) -> Suggestion:
    """The suggestion of a new item: {"answer", "source"}, the answer as if the responses were shown in the order given;
    `config` is that of its project.

    Raises Invalid, which names the part.
    """
    if not isinstance(given, dict) or set(given) != {"answer", "source"} or not isinstance(given["answer"], dict):
        raise Invalid('expected {"answer": an answer to the question, "source": whose}', "suggestion")
    source = given["source"]
    if not isinstance(source, str) or not 1 <= len(source) <= _MOST_SOURCE:
        raise Invalid(f"expected 1 to {_MOST_SOURCE} characters", "suggestion.source")
    try:
        answer = question_of(item.question).check(given["answer"], asked_of(item, range(len(item.responses)), config))
    except AnswerError as error:
        raise Invalid(error.problem, f"suggestion.answer.{error.field}") from error
    return Suggestion(item_id=item.id, source=source, answer=plain(answer), created=now)


def show_suggestion(
    session: Session, annotator_id: str, leased: Leased, config: FeedbackConfig, now: datetime
) -> dict[str, Any] | None:
    """{"source", "answer"} about the responses as they are shown to the annotator, and note that it was seen; None
    where there is none, or suggestions are hidden."""
    if config.suggestions == "hidden":
        return None
    found = session.get(Suggestion, leased.item.id)
    if found is None:
        return None
    if session.get(SuggestionSeen, (found.item_id, annotator_id)) is None:
        session.add(SuggestionSeen(item_id=found.item_id, annotator_id=annotator_id, at=now))
    return {"source": found.source, "answer": as_shown(found.answer, leased.order_shown)}


def as_shown(answer: Mapping[str, Any], order_shown: Sequence[int]) -> dict[str, Any]:
    """An answer about the responses as stored, made one about the responses as shown. What is about a single response
    stays as it is."""
    shown = {name: value for name, value in answer.items() if value not in ("", None)}
    for name in ("ranks", "ratings"):
        if name in shown:
            shown[name] = [shown[name][index] for index in order_shown]
    places = [list(order_shown).index(number) for number in range(len(order_shown))]
    if "regions" in shown:
        shown["regions"] = [asdict(renumbered(region_of(region), places)) for region in shown["regions"]]
    if shown.get("choice") in ("left", "right") and list(order_shown) == [1, 0]:
        shown["choice"] = {"left": "right", "right": "left"}[shown["choice"]]
    return shown


def suggestion_rows(session: Session, projects: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Every suggestion to items of these projects, about the responses as stored, with the annotators who have seen
    it."""
    theirs = select(Suggestion).join(Item, Item.id == Suggestion.item_id).where(Item.project.in_(projects))
    for row in session.scalars(theirs.order_by(Suggestion.item_id)):
        seen = select(SuggestionSeen.annotator_id).where(SuggestionSeen.item_id == row.item_id)
        yield {
            "item_id": row.item_id,
            "source": row.source,
            "answer": row.answer,
            "seen_by": sorted(session.scalars(seen)),
            "created": row.created.isoformat(),
        }
