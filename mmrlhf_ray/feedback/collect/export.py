"""The collected data as tables: every vote in force and every review with the shown order undone, and the prompts."""

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa
from sqlalchemy import Executable, select
from sqlalchemy.orm import Session

from mmrlhf_ray.config import FeedbackConfig
from mmrlhf_ray.data.records.annotations import annotation_row
from mmrlhf_ray.feedback.annotations import columns_of_answer
from mmrlhf_ray.feedback.collect.media_files import media_dir
from mmrlhf_ray.feedback.collect.tables import Item, LoggedResponse, MediaFile, Review, Vote
from mmrlhf_ray.feedback.errors import Invalid
from mmrlhf_ray.schema import ANNOTATION, MEDIA, PROMPT

BATCH = 1000


def annotation_rows(
    session: Session,
    since: datetime | None = None,
    annotator_id: str | None = None,
    item_id: str | None = None,
    projects: Sequence[str] | None = None,
) -> Iterator[dict[str, Any]]:
    """Rows of the ANNOTATION table in the order in which they were cast, reviews after the votes.

    `since`: only what came after; `annotator_id`: only this person's; `item_id`: only about this item; `projects`: only
    about items of these.
    """
    votes = select(Vote, Item).join(Item, Item.id == Vote.item_id).where(~Vote.undone)
    reviews = select(Review, Item).join(Item, Item.id == Review.item_id)
    if since is not None:
        votes, reviews = votes.where(Vote.created > since), reviews.where(Review.created > since)
    if annotator_id is not None:
        votes = votes.where(Vote.annotator_id == annotator_id)
        reviews = reviews.where(Review.reviewer_id == annotator_id)
    if item_id is not None:
        votes, reviews = votes.where(Vote.item_id == item_id), reviews.where(Review.item_id == item_id)
    if projects is not None:
        votes, reviews = votes.where(Item.project.in_(projects)), reviews.where(Item.project.in_(projects))
    for vote, item in _stream(session, votes.order_by(Vote.created, Vote.id)):
        yield _row(vote, item, annotation_id=vote.id, annotator_id=vote.annotator_id, role="annotator")
    for review, item in _stream(session, reviews.order_by(Review.created, Review.item_id)):
        yield _row(review, item, annotation_id=f"review-{item.id}", annotator_id=review.reviewer_id, role="reviewer")


def prompt_rows(session: Session, projects: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """Rows of the PROMPT table: every prompt that an item asks about, once; `projects`: only by items of these."""
    seen: set[str] = set()
    items = select(Item) if projects is None else select(Item).where(Item.project.in_(projects))
    for (item,) in _stream(session, items.order_by(Item.position)):
        if item.prompt_id not in seen:
            seen.add(item.prompt_id)
            yield prompt_row(item)


def prompt_row(asked: Item | LoggedResponse) -> dict[str, Any]:
    """Row of the PROMPT table that an item asks about, or that a deployed model answered."""
    return {
        "prompt_id": asked.prompt_id,
        "messages": json.dumps(asked.messages, ensure_ascii=False),
        "media_ids": asked.media_ids,
        "task": asked.task,
        "modality": asked.modality,
        "extras": json.dumps(asked.extras, ensure_ascii=False),
    }


def media_rows(
    session: Session, config: FeedbackConfig, projects: Sequence[str] | None = None
) -> Iterator[dict[str, Any]]:
    """Rows of the MEDIA table, one file at a time; `projects`: only what items of these show."""
    shown = None if projects is None else _shown(session, projects)
    for (row,) in _stream(session, select(MediaFile).order_by(MediaFile.media_id)):
        if shown is not None and row.media_id not in shown:
            continue
        data = (media_dir(config) / row.media_id).read_bytes()
        yield {"media_id": row.media_id, "kind": row.kind, "mime": row.mime, "data": data}


def annotations_table(
    session: Session,
    since: datetime | None = None,
    item_id: str | None = None,
    projects: Sequence[str] | None = None,
) -> pa.Table:
    """The ANNOTATION table; see annotation_rows."""
    rows = annotation_rows(session, since, item_id=item_id, projects=projects)
    return pa.Table.from_pylist(list(rows), schema=ANNOTATION)


def prompts_table(session: Session, projects: Sequence[str] | None = None) -> pa.Table:
    """The PROMPT table; see prompt_rows."""
    return pa.Table.from_pylist(list(prompt_rows(session, projects)), schema=PROMPT)


def _shown(session: Session, projects: Sequence[str]) -> set[str]:
    """media_ids of the prompts and of the episodes of items of these projects."""
    found: set[str] = set()
    for item in session.scalars(select(Item).where(Item.project.in_(projects))):
        found.update(item.media_ids)
        found.update(i for response in item.responses for turn in response.get("turns", ()) for i in turn["media_ids"])
    return found


def media_batches(
    session: Session, config: FeedbackConfig, projects: Sequence[str] | None = None, most_bytes: int = 64 << 20
) -> Iterator[pa.Table]:
    """The MEDIA table in parts of about `most_bytes`; see media_rows."""
    rows: list[dict[str, Any]] = []
    size = 0
    for row in media_rows(session, config, projects):
        rows.append(row)
        size += len(row["data"])
        if size >= most_bytes:
            yield pa.Table.from_pylist(rows, schema=MEDIA)
            rows, size = [], 0
    yield pa.Table.from_pylist(rows, schema=MEDIA)


def _stream(session: Session, query: Executable) -> Iterator[Sequence[Any]]:
    """Rows without all of them in memory."""
    yield from session.execute(query, execution_options={"yield_per": BATCH})


def _row(cast: Vote | Review, item: Item, **who: str) -> dict[str, Any]:
    turns = [response.get("turns", []) for response in item.responses]
    return annotation_row(
        **who,
        **columns_of_answer(cast.question, cast.answer, cast.order_shown),
        item_id=item.id,
        prompt_id=item.prompt_id,
        responses=[response["text"] for response in item.responses],
        turns=json.dumps(turns if any(turns) else [], ensure_ascii=False),
        sources=[response["source"] for response in item.responses],
        kind=cast.question,
        order_shown=cast.order_shown,
        gold=item.gold is not None,
        round=item.round,
        milliseconds=cast.milliseconds,
        created=cast.created.isoformat(),
    )


def parse_time(text: str, field: str = "since") -> datetime:
    """An ISO 8601 time with its zone. Raises Invalid."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise Invalid("expected an ISO 8601 time such as 2026-01-31T12:00:00+00:00", field) from error
    if time.tzinfo is None:
        raise Invalid("expected a time with its zone, such as …+00:00 or …Z", field)
    return time
