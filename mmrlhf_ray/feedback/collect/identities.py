"""Accounts of people whom an OpenID Connect provider knows."""

import secrets
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from mmrlhf_ray.config import FeedbackConfig, OidcConfig, OidcRole
from mmrlhf_ray.feedback.collect.accounts import set_role, start_session
from mmrlhf_ray.feedback.collect.tables import ROLES, Annotator, Identity, note
from mmrlhf_ray.feedback.errors import N_, Refused

_NAMES = ("name", "preferred_username", "email")
_LONGEST_NAME = 70
"""With room for a number, where two people are called the same."""


def role_of(claims: Mapping[str, Any], config: OidcConfig) -> OidcRole:
    """By subject or verified e-mail address, else by the highest of the names in role_claim, else the default. Raises
    Refused for who has none."""
    known = [claims["sub"], *([claims.get("email")] if claims.get("email_verified") is True else [])]
    for name in known:
        if name in config.allow:
            return config.allow[name]
    given = claims.get(config.role_claim) if config.role_claim is not None else None
    names = [given] if isinstance(given, str) else given if isinstance(given, list) else []
    found = [config.roles[name] for name in names if isinstance(name, str) and name in config.roles]
    if found:
        return max(found, key=ROLES.index)
    if config.default_role is None:
        raise Refused(N_("you are known to the provider, but have no role here; ask whoever runs this collection"))
    return config.default_role


def sign_in(
    session: Session, claims: Mapping[str, Any], oidc: OidcConfig, address: str, config: FeedbackConfig, now: datetime
) -> str:
    """A cookie for the browser of who the checked claims are about. Their account is made at the first sign-in, and
    gets the role that they have now at each. Raises Refused."""
    role = role_of(claims, oidc)
    known = session.get(Identity, (oidc.issuer, claims["sub"]))
    if known is None:
        annotator = Annotator(
            id=secrets.token_hex(8), name=_name(session, claims), role=role, token_hash=None, active=True, created=now
        )
        session.add(annotator)
        session.flush()
        session.add(Identity(issuer=oidc.issuer, subject=claims["sub"], annotator_id=annotator.id))
        note(session, now, annotator.id, "account added", annotator.id, role)
    else:
        annotator = session.get_one(Annotator, known.annotator_id)
        if not annotator.active:
            raise Refused(N_("this account is closed; ask whoever runs this collection"))
        if annotator.role != role:
            set_role(session, annotator.id, role, annotator.id, now)
    return start_session(session, annotator.id, address, config, now)


def _name(session: Session, claims: Mapping[str, Any]) -> str:
    """A name that nobody has yet."""
    given = next((claims[key] for key in _NAMES if isinstance(claims.get(key), str) and claims[key].strip()), "")
    printable = "".join(char for char in given if char.isprintable()).strip()
    name = (printable or claims["sub"])[:_LONGEST_NAME]
    taken = set(session.scalars(select(Annotator.name).where(Annotator.name.startswith(name, autoescape=True))))
    number = 2
    found = name
    while found in taken:
        found, number = f"{name} ({number})", number + 1
    return found
