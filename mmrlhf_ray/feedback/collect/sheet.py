"""Several short questions at a time. Each is held and answered as if it had been given alone."""

import random
from collections import Counter
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from mmrlhf_ray.config import FeedbackConfig
from mmrlhf_ray.feedback.collect.projects import votes_left
from mmrlhf_ray.feedback.collect.queue import (
    Leased,
    chosen_by,
    give_back,
    held_by,
    lock_annotator,
    new_lease,
    next_item,
)
from mmrlhf_ray.feedback.errors import Invalid
from mmrlhf_ray.feedback.questions import QUICK

SIZE = 12
"""Most items on a sheet."""
_RANDOM = random.SystemRandom()


def lease_sheet(
    session: Session,
    annotator_id: str,
    kind: str,
    config: FeedbackConfig,
    now: datetime,
    rng: random.Random = _RANDOM,
    project: str = "",
    size: int = SIZE,
) -> list[Leased]:
    """At most `size` items of a kind of QUICK, those that this annotator holds already first; what else they hold is
    given back. Runs in a `Database.write()` transaction.

    Which items come, and in which order, is as `queue.lease_next` says: by priority, gold questions among them, within
    overlap, and no more of a project than the annotator's quota leaves. Raises Invalid for another kind, Unknown for a
    project in which they have no part.
    """
    if kind not in QUICK:
        raise Invalid(f"expected one of {', '.join(QUICK)}, got {kind[:40]!r}", "kind")
    lock_annotator(session, annotator_id)
    expires = now + timedelta(seconds=config.lease_s)
    held = held_by(session, annotator_id, now)
    kept = [(lease, item) for lease, item in held if item.question == kind and project in ("", item.project)][:size]
    give_back(session, [one for one in held if one not in kept], now)
    for lease, _ in kept:
        lease.expires = expires
    found = [Leased(item, tuple(lease.order_shown), expires) for lease, item in kept]
    taken = Counter(leased.item.project for leased in found)
    for standing in chosen_by(session, annotator_id, project):
        name = standing.project.name
        left = votes_left(session, name, standing.rules, annotator_id, now)
        while len(found) < size and (left is None or taken[name] < left):
            item = next_item(session, annotator_id, name, kind, config, now, rng)
            if item is None:
                break
            found.append(new_lease(session, annotator_id, *item, expires, rng))
            session.flush()  # the next query must see what is held by now
            taken[name] += 1
    return found
