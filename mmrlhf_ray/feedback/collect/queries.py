"""The queries of every lease and vote, made once: to put one together takes longer than to run it."""

from datetime import datetime

from sqlalchemy import BindParameter, ColumnElement, Select, String, bindparam, func, select

from mmrlhf_ray.feedback.collect.tables import GroupMember, Item, Lease, Project, Skip, UtcDateTime, Vote

WHO: BindParameter[str] = bindparam("who", type_=String)
NOW: BindParameter[datetime] = bindparam("now", type_=UtcDateTime)


def may_answer(annotator_id: str | BindParameter[str]) -> ColumnElement[bool]:
    """That an item is anyone's to answer, or this annotator's, or a group's of theirs."""
    theirs = select(GroupMember.group_name).where(GroupMember.annotator_id == annotator_id)
    anyone = Item.assigned_person.is_(None) & Item.assigned_group.is_(None)
    return anyone | (Item.assigned_person == annotator_id) | Item.assigned_group.in_(theirs)


def _candidates(gold: bool, of_kind: bool) -> Select[Item]:
    """The next item of `project` for `who` at `now`; `of_kind`: of the kind `question`, and none that `who` holds."""
    mine = select(Vote.id).where(Vote.item_id == Item.id, Vote.annotator_id == WHO, ~Vote.undone)
    skipped = select(Skip.item_id).where(Skip.item_id == Item.id, Skip.annotator_id == WHO)
    others = select(func.count()).where(Lease.item_id == Item.id, Lease.annotator_id != WHO, Lease.expires > NOW)
    found = (
        select(Item)
        .where(
            Item.project == bindparam("project", type_=String),
            Item.votes < Item.overlap,
            may_answer(WHO),
            Item.gold.is_not(None) if gold else Item.gold.is_(None),
            ~mine.exists(),
            ~skipped.exists(),
            Item.votes + others.correlate(Item).scalar_subquery() < Item.overlap,
        )
        .order_by(Item.priority.desc(), Item.position)
        .limit(1)
    )
    if not of_kind:
        return found
    held = select(Lease.item_id).where(Lease.item_id == Item.id, Lease.annotator_id == WHO, Lease.expires > NOW)
    return found.where(Item.question == bindparam("question", type_=String), ~held.exists())


LOCKED = (
    select(Item, Lease, Project)
    .join(Project, Project.name == Item.project)
    .outerjoin(Lease, (Lease.item_id == Item.id) & (Lease.annotator_id == WHO))
    .where(Item.id == bindparam("item", type_=String))
    .with_for_update(of=Item)
)
"""An item, the lease of it that `who` has, and its project."""
HELD = (
    select(Lease, Item)
    .join(Item, Item.id == Lease.item_id)
    .where(Lease.annotator_id == WHO, Lease.expires > NOW)
    .order_by(Item.priority.desc(), Item.position)
)
"""What `who` holds at `now`."""
CANDIDATES = {(gold, of_kind): _candidates(gold, of_kind) for gold in (True, False) for of_kind in (True, False)}
