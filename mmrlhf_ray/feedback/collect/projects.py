"""Projects: queues with their own rules, and who has which role in them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, get_args

from pydantic import ValidationError
from sqlalchemy import Select, String, bindparam, delete, func, select, union_all
from sqlalchemy.orm import Session

from mmrlhf_ray.config import FeedbackConfig, ProjectConfig
from mmrlhf_ray.feedback.collect.accounts import find_annotator
from mmrlhf_ray.feedback.collect.tables import (
    Annotator,
    GroupMember,
    Item,
    Project,
    ProjectGroup,
    ProjectPerson,
    Vote,
    note,
)
from mmrlhf_ray.feedback.errors import N_, Conflict, Invalid, Refused, Unknown

ProjectRole = Literal["annotator", "reviewer", "admin"]
PROJECT_ROLES: tuple[ProjectRole, ...] = get_args(ProjectRole)
"""Each may do what those before it may."""
GROUP_MARK = "@"
"""What a group's name begins with where an account may be named as well."""
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")


def _standings_query() -> Select[Project, ProjectRole | None, str]:
    """(project, a role given there or None, role of the account) of the account `who`."""
    who = bindparam("who", type_=String)
    given = union_all(
        select(ProjectPerson.project, ProjectPerson.role).where(ProjectPerson.annotator_id == who),
        select(ProjectGroup.project, ProjectGroup.role)
        .join(GroupMember, GroupMember.group_name == ProjectGroup.group_name)
        .where(GroupMember.annotator_id == who),
    ).subquery()
    account = select(Annotator.role).where(Annotator.id == who).scalar_subquery()
    return select(Project, given.c.role, account).outerjoin(given, given.c.project == Project.name)


_STANDINGS = _standings_query()
"""Made once: to put a query together takes longer than to run it."""


@dataclass(frozen=True)
class Standing:
    """A project, and what an account may do there."""

    project: Project
    role: ProjectRole

    @property
    def rules(self) -> ProjectConfig:
        """The project's."""
        return rules_of(self.project)


@dataclass(frozen=True)
class Party:
    """An account or a group: one of the two is None."""

    person: str | None = None
    """annotator_id."""
    group: str | None = None


def rules_of(project: Project) -> ProjectConfig:
    """The settings of a project, with their defaults."""
    return ProjectConfig.model_validate(project.settings)


def title_of(project: Project) -> str:
    """What people call a project."""
    return rules_of(project).title or project.name


def config_in(session: Session, project: str, config: FeedbackConfig) -> FeedbackConfig:
    """The app's configuration as it holds in the project of this name."""
    return rules_of(session.get_one(Project, project)).in_force(config)


def standings(session: Session, annotator_id: str) -> list[Standing]:
    """The projects in which an account has a role, closed ones included, those of the highest priority first.

    An administrator of the app is one of every project. Of the roles that somebody has by themselves, by their groups
    and, where the project is for everyone, by their account, the highest counts.
    """
    found: dict[str, Standing] = {}
    for project, own, general in session.execute(_STANDINGS, {"who": annotator_id}):
        roles = [role for role in (own, _general(project, general)) if role is not None]
        known = found.get(project.name)
        for role in roles + ([known.role] if known else []):
            if project.name not in found or _rank(role) > _rank(found[project.name].role):
                found[project.name] = Standing(project, role)
    if len(found) < 2:
        return list(found.values())
    return sorted(found.values(), key=lambda standing: (-standing.rules.priority, standing.project.name))


def _general(project: Project, role: str) -> ProjectRole | None:
    """The role in a project that comes with an account's own."""
    if role == "admin":
        return "admin"
    if role not in PROJECT_ROLES or not rules_of(project).everyone:
        return None
    return "reviewer" if role == "reviewer" else "annotator"


def _rank(role: ProjectRole) -> int:
    return PROJECT_ROLES.index(role)


def names_with(session: Session, annotator_id: str, least: ProjectRole) -> tuple[str, ...]:
    """Names of the projects in which the account has this role or a higher one, closed ones included."""
    return tuple(s.project.name for s in standings(session, annotator_id) if _rank(s.role) >= _rank(least))


def names_for(session: Session, annotator_id: str, least: ProjectRole, wanted: str = "") -> tuple[str, ...]:
    """The project that is wanted, or all if none is, of those in which the account has the role. Raises Unknown for a
    project that is not there or not theirs to know, Refused where the role is too low or there is no project at all."""
    if wanted:
        return (need(session, annotator_id, wanted, least).project.name,)
    names = names_with(session, annotator_id, least)
    if not names:
        raise Refused(N_("this takes the role %(role)s in a project"), role=least)
    return names


def need(session: Session, annotator_id: str, name: str, least: ProjectRole) -> Standing:
    """The account's standing in a project. Raises as names_for."""
    found = next((s for s in standings(session, annotator_id) if s.project.name == name), None)
    if found is None:
        raise Unknown(N_("there is no project '%(name)s', or you have no part in it"), "project", name=name[:80])
    if _rank(found.role) < _rank(least):
        raise Refused(
            N_("this takes the role %(role)s in the project '%(name)s'"), "project", role=least, name=found.project.name
        )
    return found


def find_project(session: Session, name: str) -> Project:
    """Raises Unknown."""
    project = session.get(Project, name)
    if project is None:
        raise Unknown(N_("there is no project '%(name)s'"), "project", name=name[:80])
    return project


def add_project(session: Session, name: str, settings: Mapping[str, Any], actor: str, now: datetime) -> Project:
    """A new project; `settings` are keys of ProjectConfig. Raises Invalid and Conflict."""
    if not _NAME.fullmatch(name):
        raise Invalid(
            N_("a name has 1 to 40 small letters, digits, - and _, and begins with a letter or a digit"), "name"
        )
    if session.get(Project, name) is not None:
        raise Conflict(N_("there is a project '%(name)s' already; choose another name"), "name", name=name)
    project = Project(name=name, settings=_checked(settings), active=True, created=now)
    session.add(project)
    session.flush()
    note(session, now, actor, "project added", name)
    return project


def edit_project(
    session: Session, name: str, settings: Mapping[str, Any], active: bool | None, actor: str, now: datetime
) -> Project:
    """Change the settings that are given, and with `active` whether its items are asked. Raises Unknown, Invalid."""
    project = find_project(session, name)
    project.settings = _checked({**project.settings, **settings})
    if active is not None:
        project.active = active
    note(session, now, actor, "project changed", name, ", ".join(sorted(settings)))
    return project


def _checked(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those that differ from the defaults, as they are stored. Raises Invalid, which names the key."""
    try:
        rules = ProjectConfig.model_validate(settings)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise Invalid(str(first["msg"]), ".".join(str(part) for part in first["loc"]) or "settings") from error
    return rules.model_dump(mode="json", exclude_defaults=True)


def find_party(session: Session, who: str) -> Party:
    """An account by its name or id, or a group by `@` and its name. Raises Unknown."""
    if not who.startswith(GROUP_MARK):
        return Party(person=find_annotator(session, who).id)
    group = who.removeprefix(GROUP_MARK)
    if session.scalar(select(GroupMember.annotator_id).where(GroupMember.group_name == group).limit(1)) is None:
        raise Unknown(N_("there is no group '%(name)s'; it is there while somebody is in it"), "who", name=group[:80])
    return Party(group=group)


def set_role(session: Session, name: str, who: str, role: str | None, actor: str, now: datetime) -> None:
    """Give an account or a group a role in a project; None takes it away. Raises Unknown and Invalid."""
    project, party = find_project(session, name).name, find_party(session, who)
    if role is not None and role not in PROJECT_ROLES:
        raise Invalid(f"expected one of {', '.join(PROJECT_ROLES)}, got {role[:40]!r}", "role")
    row: ProjectPerson | ProjectGroup
    if party.person is not None:
        key = (ProjectPerson.project == project) & (ProjectPerson.annotator_id == party.person)
        session.execute(delete(ProjectPerson).where(key))
        row = ProjectPerson(project=project, annotator_id=party.person, role=role or "")
    else:
        key = (ProjectGroup.project == project) & (ProjectGroup.group_name == party.group)
        session.execute(delete(ProjectGroup).where(key))
        row = ProjectGroup(project=project, group_name=party.group or "", role=role or "")
    if role is not None:
        session.add(row)
    about = party.person or f"{GROUP_MARK}{party.group}"
    note(session, now, actor, "project role changed", project, f"{about} -> {role or 'none'}")


def roles_given(session: Session, name: str) -> list[tuple[str, str]]:
    """(name of the account, or `@` and that of the group; role) of those who were given one in a project."""
    people = session.execute(
        select(Annotator.name, ProjectPerson.role)
        .join(Annotator, Annotator.id == ProjectPerson.annotator_id)
        .where(ProjectPerson.project == name)
        .order_by(Annotator.name)
    )
    groups = session.execute(
        select(ProjectGroup.group_name, ProjectGroup.role)
        .where(ProjectGroup.project == name)
        .order_by(ProjectGroup.group_name)
    )
    return [(row[0], row[1]) for row in people] + [(GROUP_MARK + row[0], row[1]) for row in groups]


def set_group(session: Session, group: str, people: Sequence[str], actor: str, now: datetime) -> None:
    """Say who is in a group: accounts by name or id; nobody ends it. Raises Invalid and Unknown."""
    if not _NAME.fullmatch(group):
        raise Invalid(
            N_("a name has 1 to 40 small letters, digits, - and _, and begins with a letter or a digit"), "name"
        )
    members = {find_annotator(session, who).id for who in people}
    session.execute(delete(GroupMember).where(GroupMember.group_name == group))
    session.add_all(GroupMember(group_name=group, annotator_id=member) for member in sorted(members))
    note(session, now, actor, "group changed", GROUP_MARK + group, f"{len(members)} accounts")


def groups(session: Session) -> dict[str, list[str]]:
    """Name of each group → names of the accounts in it."""
    rows = session.execute(
        select(GroupMember.group_name, Annotator.name)
        .join(Annotator, Annotator.id == GroupMember.annotator_id)
        .order_by(GroupMember.group_name, Annotator.name)
    )
    found: dict[str, list[str]] = {}
    for group, name in rows:
        found.setdefault(group, []).append(name)
    return found


def assign(session: Session, item: Item, who: str) -> None:
    """Ask only this account or group about an item; "" asks everyone again. Raises Unknown."""
    party = find_party(session, who) if who else Party()
    item.assigned_person, item.assigned_group = party.person, party.group


def assigned_to(session: Session, item: Item) -> str:
    """Who alone is asked about an item, as assign() takes it."""
    if item.assigned_person is not None:
        return session.get_one(Annotator, item.assigned_person).name
    return f"{GROUP_MARK}{item.assigned_group}" if item.assigned_group else ""


def votes_left(session: Session, project: str, rules: ProjectConfig, annotator_id: str, now: datetime) -> int | None:
    """Votes that an account may still cast in a project today; None = no limit."""
    counted = (
        select(func.count())
        .select_from(Vote)
        .join(Item, Item.id == Vote.item_id)
        .where(Vote.annotator_id == annotator_id, ~Vote.undone, Item.project == project)
    )
    left: list[int] = []
    if rules.quota is not None:
        left.append(rules.quota - (session.scalar(counted) or 0))
    if rules.quota_day is not None:
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
        left.append(rules.quota_day - (session.scalar(counted.where(Vote.created >= midnight)) or 0))
    return max(0, min(left)) if left else None
