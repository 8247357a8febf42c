"""The audit log: who did what that matters for trust."""

from datetime import datetime

from sqlalchemy.orm import Session

from mmrlhf_ray.feedback.collect.tables import Audit

COMMAND = "command"
"""Actor of what is done by `mmrlhf feedback` on the server's own machine."""


def note(session: Session, now: datetime, actor: str, action: str, target: str = "", detail: str = "") -> None:
    """Add a row. `detail` holds no names or texts of people: it stays when their data are erased."""
    session.add(Audit(at=now, actor=actor, action=action, target=target[:200], detail=detail))
