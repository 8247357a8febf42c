"""`mmrlhf feedback projects` and `groups`: queues with their own rules, and who works on them."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from mmrlhf_ray.cli.feedback_queue import ConfigFile, Overrides, opened, read_config
from mmrlhf_ray.cli.groups import Group
from mmrlhf_ray.errors import needs

app = typer.Typer(cls=Group, help="Queues with their own rules and people.", no_args_is_help=True)
groups_app = typer.Typer(cls=Group, help="Groups of accounts.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="PROJECT", help="Small letters, digits, - and _; it never changes.")]
SettingsFile = Annotated[Path | None, typer.Option("--settings", help="YAML file with the keys of a project.")]
Keys = Annotated[
    list[str] | None, typer.Option("--key", metavar="KEY=VALUE", help="Key of the project, in YAML. Repeatable.")
]


@app.command()
def add(
    name: Name, settings: SettingsFile = None, keys: Keys = None, config: ConfigFile = None, overrides: Overrides = None
) -> None:
    """Make a project.

    Its keys are title, guidelines, kinds, aspects, overlap, priority, quota_day, quota and everyone.
    """
    needs("feedback")
    from mmrlhf_ray.feedback.collect.projects import add_project
    from mmrlhf_ray.feedback.collect.tables import COMMAND

    given = _given(settings, keys)
    with opened(read_config(config, overrides)) as database, database.write() as session:
        add_project(session, name, given, COMMAND, datetime.now(UTC))
    print(f"{name}: made")


@app.command()
def edit(
    name: Name,
    settings: SettingsFile = None,
    keys: Keys = None,
    close: Annotated[
        bool | None, typer.Option("--close/--open", help="Whether nothing of it is asked; default: as it is.")
    ] = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Change the keys that are given; others stay as they are."""
    needs("feedback")
    from mmrlhf_ray.feedback.collect.projects import edit_project
    from mmrlhf_ray.feedback.collect.tables import COMMAND

    given = _given(settings, keys)
    with opened(read_config(config, overrides)) as database, database.write() as session:
        edit_project(session, name, given, None if close is None else not close, COMMAND, datetime.now(UTC))
    print(f"{name}: changed")


@app.command("list")
def list_projects(config: ConfigFile = None, overrides: Overrides = None) -> None:
    """All projects, with their progress and people."""
    needs("feedback")
    from rich.console import Console
    from rich.table import Table
    from sqlalchemy import select

    from mmrlhf_ray.feedback.collect.progress import progress
    from mmrlhf_ray.feedback.collect.projects import roles_given, rules_of
    from mmrlhf_ray.feedback.collect.tables import COMMAND, Project

    cfg = read_config(config, overrides)
    table = Table("name", "title", "open", "items", "done", "votes", "priority", "for", "roles")
    with opened(cfg) as database, database.read() as session:
        for project in session.scalars(select(Project).order_by(Project.created, Project.name)):
            rules, found = rules_of(project), progress(session, COMMAND, cfg, datetime.now(UTC), (project.name,))
            roles = ", ".join(f"{who}: {role}" for who, role in roles_given(session, project.name))
            counts = (str(found.items), str(found.done), f"{found.cast}/{found.wanted}", f"{rules.priority:g}")
            who = "everyone" if rules.everyone else "roles"
            table.add_row(project.name, rules.title, "yes" if project.active else "no", *counts, who, roles)
    Console().print(table)


@app.command("role")
def set_role(
    name: Name,
    who: Annotated[str, typer.Argument(metavar="WHO", help="Name or id of an account, or @ and a group's name.")],
    role: Annotated[str, typer.Argument(metavar="ROLE", help="annotator, reviewer, admin, or none to take it away.")],
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Give an account or a group a role in a project."""
    needs("feedback")
    from mmrlhf_ray.feedback.collect.projects import set_role as give
    from mmrlhf_ray.feedback.collect.tables import COMMAND

    with opened(read_config(config, overrides)) as database, database.write() as session:
        give(session, name, who, None if role == "none" else role, COMMAND, datetime.now(UTC))
    print(f"{name}: {who} is {role}" if role != "none" else f"{name}: {who} has no role of their own")


@groups_app.command("set")
def set_members(
    name: Annotated[str, typer.Argument(metavar="GROUP", help="Small letters, digits, - and _.")],
    people: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Accounts; none ends it.")] = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Say who is in a group, all of them at once."""
    needs("feedback")
    from mmrlhf_ray.feedback.collect.projects import set_group
    from mmrlhf_ray.feedback.collect.tables import COMMAND

    with opened(read_config(config, overrides)) as database, database.write() as session:
        set_group(session, name, people or [], COMMAND, datetime.now(UTC))
    print(f"{name}: {len(people or ())} accounts")


@groups_app.command("list")
def list_groups(config: ConfigFile = None, overrides: Overrides = None) -> None:
    """All groups, and who is in them."""
    needs("feedback")
    from mmrlhf_ray.feedback.collect.projects import groups

    with opened(read_config(config, overrides)) as database, database.read() as session:
        for name, people in groups(session).items():
            print(f"{name}: {', '.join(people)}")


def _given(file: Path | None, keys: list[str] | None) -> dict[str, Any]:
    """The keys that are given, and no others. Raises ConfigError."""
    from mmrlhf_ray.config import ProjectConfig, load_config

    return load_config(file, keys or [], ProjectConfig).model_dump(mode="json", exclude_unset=True)
