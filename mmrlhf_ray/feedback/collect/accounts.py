"""Who may do what: tokens, browser sessions, roles.

Tokens and cookies are 256 random bits and stored as their SHA-256 only. Nobody can guess such a secret or find it from
its hash, so a slow password hash would protect nothing and cost every request its milliseconds.
"""

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from mmrlhf_ray.config import FeedbackConfig
from mmrlhf_ray.feedback.collect.tables import ROLES, Annotator, Audit, WebSession, note
from mmrlhf_ray.feedback.errors import N_, Conflict, Invalid, TooMany, Unknown

LOGIN_FAILED = "login failed"


@dataclass(frozen=True)
class Caller:
    """Who sends a request."""

    id: str
    name: str
    role: str
    csrf: str = ""
    """Forms of this browser session must carry it as `csrf`; "" for tokens, which no browser adds by itself."""


def new_secret() -> str:
    """256 random bits."""
    return secrets.token_urlsafe(32)


def hashed(secret: str) -> str:
    """SHA-256, hexadecimal."""
    return hashlib.sha256(secret.encode()).hexdigest()


def csrf_of(secret: str) -> str:
    """The token that forms carry for a cookie: whoever cannot read the cookie cannot make it."""
    return hmac.new(secret.encode(), b"mmrlhf csrf", hashlib.sha256).hexdigest()


def add_annotator(session: Session, name: str, role: str, actor: str, now: datetime) -> tuple[Annotator, str]:
    """(annotator, token); the token cannot be shown again. Raises Invalid and Conflict."""
    name = name.strip()
    if not 1 <= len(name) <= 80 or not name.isprintable():
        raise Invalid(N_("a name has 1 to 80 printable characters"), "name")
    check_role(role)
    if session.scalar(select(Annotator.id).where(Annotator.name == name)):
        raise Conflict(N_("there is an account '%(name)s' already; choose another name"), "name", name=name)
    token = new_secret()
    annotator = Annotator(
        id=secrets.token_hex(8), name=name, role=role, token_hash=hashed(token), active=True, created=now
    )
    session.add(annotator)
    note(session, now, actor, "account added", annotator.id, role)
    return annotator, token


def check_role(role: str) -> None:
    """Raises Invalid."""
    if role not in ROLES:
        raise Invalid(f"expected one of {', '.join(ROLES)}, got {role[:40]!r}", "role")


def set_role(session: Session, annotator_id: str, role: str, actor: str, now: datetime) -> Annotator:
    """Give an account another role. Raises Invalid and Unknown."""
    check_role(role)
    annotator = find_annotator(session, annotator_id)
    note(session, now, actor, "role changed", annotator.id, f"{annotator.role} -> {role}")
    annotator.role = role
    return annotator


def new_token(session: Session, annotator_id: str, actor: str, now: datetime) -> str:
    """A token in place of the old one, whose browser sessions end. Raises Unknown."""
    annotator, token = find_annotator(session, annotator_id), new_secret()
    annotator.token_hash = hashed(token)
    _end_sessions(session, annotator.id)
    note(session, now, actor, "token replaced", annotator.id)
    return token


def remove_annotator(session: Session, annotator_id: str, actor: str, now: datetime) -> Annotator:
    """Close an account: its token and browser sessions end, its votes stay. Raises Unknown."""
    annotator = find_annotator(session, annotator_id)
    annotator.active, annotator.token_hash = False, None
    _end_sessions(session, annotator.id)
    note(session, now, actor, "account removed", annotator.id)
    return annotator


def find_annotator(session: Session, id_or_name: str) -> Annotator:
    """The account with this id or name. Raises Unknown."""
    found = session.scalar(
        select(Annotator).where((Annotator.id == id_or_name) | (Annotator.name == id_or_name)).with_for_update()
    )
    if found is None:
        raise Unknown(N_("there is no account '%(name)s'"), "annotator", name=id_or_name[:80])
    return found


def by_token(session: Session, token: str) -> Caller | None:
    """Whose token this is."""
    wanted = hashed(token)
    found = session.execute(
        select(Annotator.id, Annotator.name, Annotator.role, Annotator.token_hash).where(
            Annotator.token_hash == wanted, Annotator.active
        )
    ).first()
    if found is None or not hmac.compare_digest(str(found.token_hash), wanted):
        return None
    return Caller(found.id, found.name, found.role)


def by_cookie(session: Session, cookie: str, now: datetime) -> Caller | None:
    """Whose browser session this is."""
    wanted = hashed(cookie)
    found = session.execute(
        select(Annotator.id, Annotator.name, Annotator.role, WebSession.cookie_hash)
        .join(WebSession, WebSession.annotator_id == Annotator.id)
        .where(WebSession.cookie_hash == wanted, WebSession.expires > now, Annotator.active)
    ).first()
    if found is None or not hmac.compare_digest(found.cookie_hash, wanted):
        return None
    return Caller(found.id, found.name, found.role, csrf_of(cookie))


def log_in(session: Session, token: str, address: str, config: FeedbackConfig, now: datetime) -> str | None:
    """A cookie for the browser that sent a valid token; None for a wrong one, which is counted.

    Raises TooMany where too many were wrong of late, whatever the token is.
    """
    _check_failures(session, address, config, now)
    caller = by_token(session, token)
    if caller is None:
        note(session, now, "", LOGIN_FAILED, address)
        return None
    return start_session(session, caller.id, address, config, now)


def start_session(session: Session, annotator_id: str, address: str, config: FeedbackConfig, now: datetime) -> str:
    """A cookie for a browser in which somebody has shown who they are."""
    session.execute(delete(WebSession).where(WebSession.expires <= now))
    cookie = new_secret()
    expires = now + timedelta(hours=config.session_hours)
    session.add(WebSession(cookie_hash=hashed(cookie), annotator_id=annotator_id, expires=expires))
    note(session, now, annotator_id, "login", annotator_id, address)
    return cookie


def log_out(session: Session, cookie: str, caller: Caller, now: datetime) -> None:
    """End this browser session."""
    session.execute(delete(WebSession).where(WebSession.cookie_hash == hashed(cookie)))
    note(session, now, caller.id, "logout", caller.id)


def _check_failures(session: Session, address: str, config: FeedbackConfig, now: datetime) -> None:
    """Failures are counted in the audit log: restarts and several processes make no difference."""
    limits = config.login
    recent = (Audit.action == LOGIN_FAILED) & (Audit.at > now - timedelta(seconds=limits.window_s))
    total = session.scalar(select(func.count()).select_from(Audit).where(recent)) or 0
    here = session.scalar(select(func.count()).select_from(Audit).where(recent, Audit.target == address)) or 0
    if here >= limits.per_address or total >= limits.total:
        minutes = f"{limits.window_s / 60:.0f}"
        raise TooMany(N_("too many failed logins; try again in %(minutes)s minutes"), minutes=minutes)


def _end_sessions(session: Session, annotator_id: str) -> None:
    session.execute(delete(WebSession).where(WebSession.annotator_id == annotator_id))
