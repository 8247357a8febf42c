"""Battles of the arena: two models' answers to what somebody asked, and the vote that makes an item of them.

Without a vote there is no item, so that nobody else is asked about it. What a battle leaves is an item of the kind pair
with a vote, like any other: exports and records have it with its media and the models' names as sources.
"""

import random
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from mmrlhf_ray.config import FeedbackConfig
from mmrlhf_ray.feedback.arena.asking import Answered
from mmrlhf_ray.feedback.arena.board import Game
from mmrlhf_ray.feedback.collect import queue
from mmrlhf_ray.feedback.collect.item_list import delete_item
from mmrlhf_ray.feedback.collect.items import add_items
from mmrlhf_ray.feedback.collect.tables import ArenaBattle, Item, Lease, Vote
from mmrlhf_ray.feedback.errors import N_, Conflict, Unknown

TASK = "arena"
"""Of the items: agreement and bias are counted by it."""
_RANDOM = random.SystemRandom()


@dataclass(frozen=True)
class Asked:
    """What somebody asked."""

    text: str
    media_ids: Sequence[str] = ()
    kinds: Sequence[str] = ()
    """image, audio or video, of each medium."""

    @property
    def messages(self) -> list[dict[str, Any]]:
        """As in the PROMPT table: the media, then the text."""
        parts: list[dict[str, Any]] = [{"type": kind} for kind in self.kinds]
        return [{"role": "user", "content": [*parts, {"type": "text", "text": self.text}]}]


def open_battle(
    session: Session,
    annotator_id: str,
    asked: Asked,
    answers: Sequence[Answered],
    config: FeedbackConfig,
    now: datetime,
    rng: random.Random = _RANDOM,
) -> ArenaBattle:
    """Keep two answers for a vote, in an order that is drawn. Battles that nobody voted on in time go."""
    assert config.arena is not None
    old = now - timedelta(hours=config.arena.keep_hours)
    session.execute(delete(ArenaBattle).where(~ArenaBattle.voted, ArenaBattle.created < old))
    battle = ArenaBattle(
        id=uuid.uuid4().hex,
        annotator_id=annotator_id,
        messages=asked.messages,
        media_ids=list(asked.media_ids),
        responses=[{"text": answer.text, "source": answer.name} for answer in answers],
        order_shown=rng.sample(range(len(answers)), len(answers)),
        voted=False,
        created=now,
    )
    session.add(battle)
    return battle


def find_battle(session: Session, annotator_id: str, battle_id: str) -> tuple[ArenaBattle, Vote | None]:
    """A battle of one's own, and its vote. Raises Unknown."""
    battle = session.get(ArenaBattle, battle_id)
    if battle is None or battle.annotator_id != annotator_id:
        raise Unknown(N_("you have asked no such question, or it was too long ago"), "battle_id")
    return battle, session.get(Vote, _vote_id(battle))


def vote(
    session: Session,
    annotator_id: str,
    battle_id: str,
    answer: Mapping[str, Any],
    milliseconds: int,
    config: FeedbackConfig,
    now: datetime,
) -> ArenaBattle:
    """Store the vote, and the item that it is about; the same vote again changes nothing.

    `answer`: of the kind pair, about the answers as shown. Raises Unknown, AnswerError, and Conflict for another vote.
    """
    battle, known = find_battle(session, annotator_id, battle_id)
    if known is not None and known.answer["choice"] != answer.get("choice"):
        raise Conflict(N_("you have voted on this already, and know who answered"), "choice")
    if known is not None:
        return battle
    row = {
        "item_id": battle.id,
        "messages": battle.messages,
        "media_ids": battle.media_ids,
        "task": TASK,
        "question": "pair",
        "responses": battle.responses,
        "overlap": 1,
    }
    add_items(session, [row], config, now)
    expires = now + timedelta(seconds=config.lease_s)
    session.add(Lease(item_id=battle.id, annotator_id=annotator_id, order_shown=battle.order_shown, expires=expires))
    session.flush()
    cast = queue.NewVote(_vote_id(battle), battle.id, answer, milliseconds)
    queue.submit(session, annotator_id, cast, config, now)
    battle.voted = True
    return battle


def games(session: Session) -> list[Game]:
    """Every vote in force, in the order in which they were cast."""
    query = (
        select(Vote.answer, Vote.order_shown, Item.responses)
        .join(Item, Item.id == Vote.item_id)
        .join(ArenaBattle, ArenaBattle.id == Item.id)
        .where(~Vote.undone)
        .order_by(Vote.created, Vote.id)
    )
    found = []
    for answer, order, responses in session.execute(query):
        left, right = (responses[index]["source"] for index in order)
        found.append(Game(left, right, answer["choice"]))
    return found


def erase_battles(session: Session, annotator_id: str, actor: str, now: datetime) -> None:
    """Delete what somebody asked, with the items that came of it."""
    mine = session.scalars(select(ArenaBattle).where(ArenaBattle.annotator_id == annotator_id)).all()
    for battle in mine:
        if session.get(Item, battle.id) is not None:
            delete_item(session, battle.id, True, actor, now)
        session.delete(battle)


def _vote_id(battle: ArenaBattle) -> str:
    """A battle has one vote, so that one which is sent twice counts once."""
    return str(uuid.UUID(battle.id))
