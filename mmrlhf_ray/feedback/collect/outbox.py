"""What happened, for other programs: kept in the database with the change itself, and delivered at least once.

A message is a row that is written in the transaction of what it tells, so that it is there if and only if that
happened. Whoever delivers it claims it for a while first: several servers over one database do not send it at one time,
and one that dies while it sends gives it up.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from mmrlhf_ray.feedback.collect.tables import OutMessage

CLAIM_S = 60.0
"""How long a message is another's to deliver; more than the attempts of a batch take."""
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 3600.0
_BATCH = 5


@dataclass(frozen=True)
class Due:
    """A message to deliver now."""

    id: str
    event: str
    body: dict[str, Any]
    attempts: int


def tell(session: Session, event: str, now: datetime, **body: Any) -> None:
    """Put a message into the outbox, as part of the change that it tells."""
    session.add(OutMessage(id=uuid.uuid4().hex, event=event, body=body, created=now, due=now, attempts=0))


def anything_due(session: Session, now: datetime) -> bool:
    """Whether there is a message to deliver."""
    return session.scalar(select(OutMessage.id).where(OutMessage.due <= now).limit(1)) is not None


def claim_due(session: Session, now: datetime) -> Sequence[Due]:
    """Some of the messages that are due, the oldest first, which are the caller's for CLAIM_S."""
    query = select(OutMessage).where(OutMessage.due <= now).order_by(OutMessage.due, OutMessage.id).limit(_BATCH)
    found = session.scalars(query.with_for_update(skip_locked=True)).all()
    for message in found:
        message.due = now + timedelta(seconds=CLAIM_S)
        message.attempts += 1
    return [Due(m.id, m.event, {**m.body, "created": m.created.isoformat()}, m.attempts) for m in found]


def delivered(session: Session, message_id: str) -> None:
    """It arrived."""
    session.execute(delete(OutMessage).where(OutMessage.id == message_id))


def failed(session: Session, due: Due, now: datetime) -> None:
    """It did not arrive: it is due again after a pause that doubles, up to an hour."""
    message = session.get(OutMessage, due.id, with_for_update=True)
    if message is not None:
        message.due = now + timedelta(seconds=min(_FIRST_PAUSE_S * 2 ** min(due.attempts - 1, 20), _LONGEST_PAUSE_S))


def waiting_messages(session: Session) -> int:
    """How many have not arrived."""
    return session.scalar(select(func.count()).select_from(OutMessage)) or 0
