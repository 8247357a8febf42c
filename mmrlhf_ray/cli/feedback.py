"""`mmrlhf feedback`: collect what people think of responses."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from mmrlhf_ray.cli.feedback_files import app as files_app
from mmrlhf_ray.cli.feedback_projects import app as projects_app
from mmrlhf_ray.cli.feedback_projects import groups_app
from mmrlhf_ray.cli.feedback_queue import ConfigFile, Overrides, opened, read_config
from mmrlhf_ray.cli.feedback_queue import app as queue_app
from mmrlhf_ray.cli.groups import Group
from mmrlhf_ray.cli.models import SERVE_TOKEN
from mmrlhf_ray.errors import ConfigError, needs

app = typer.Typer(cls=Group, help="Collect what people think of responses.", no_args_is_help=True)
annotators = typer.Typer(cls=Group, help="Accounts and their tokens.", no_args_is_help=True)
app.add_typer(annotators, name="annotators")
app.add_typer(projects_app, name="projects")
app.add_typer(groups_app, name="groups")
app.add_typer(files_app)
app.add_typer(queue_app)

Who = Annotated[str, typer.Argument(metavar="NAME", help="Name or id of the account.")]


@app.command()
def serve(
    config: ConfigFile = None,
    overrides: Overrides = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; default: this machine only.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="0 = any that is free.")] = None,
    demo: Annotated[bool, typer.Option("--demo", help="With items of Omni-Digits, made here.")] = False,
    arena: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=URL",
            help=f"Served model that people compare blind, e.g. mine=http://127.0.0.1:8000/v1, with the token in "
            f"{SERVE_TOKEN} if that is set. Give two or more.",
        ),
    ] = None,
) -> None:
    """Start the app; Ctrl-C ends it."""
    needs("feedback")
    given = {"host": host, "port": port, "arena.models": arena_models(arena) if arena else None}
    cfg = read_config(
        config, [*(overrides or []), *(f"{key}={value}" for key, value in given.items() if value is not None)]
    )
    from mmrlhf_ray.feedback.app.serve import serve as serve_app

    token = None
    if demo:
        from mmrlhf_ray.demo.feedback_items import add_demo_items

        with opened(cfg) as database:
            token = add_demo_items(database, cfg)
    serve_app(cfg, token)


def arena_models(given: list[str]) -> str:
    """`arena.models` of the configuration, as YAML, from NAME=URL. Raises ConfigError."""
    models = []
    for text in given:
        name, equals, url = text.partition("=")
        if not (name and equals and url):
            raise ConfigError(f"--arena: expected NAME=URL, got {text!r}")
        models.append({"name": name, "base_url": url, "token_env": SERVE_TOKEN if SERVE_TOKEN in os.environ else None})
    return json.dumps(models)


@annotators.command()
def add(
    name: Annotated[str, typer.Argument(help="What the account is called; no two are called the same.")],
    role: Annotated[str, typer.Option(help="annotator, reviewer, admin, or client (a deployed model).")] = "annotator",
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Make an account and print its token, which is not shown again."""
    needs("feedback")
    from mmrlhf_ray.feedback.collect.accounts import add_annotator
    from mmrlhf_ray.feedback.collect.tables import COMMAND

    with opened(read_config(config, overrides)) as database, database.write() as session:
        _, token = add_annotator(session, name, role, COMMAND, datetime.now(UTC))
    print(token)


@annotators.command("list")
def list_annotators(config: ConfigFile = None, overrides: Overrides = None) -> None:
    """All accounts, with their votes."""
    needs("feedback")
    from rich.console import Console
    from rich.table import Table
    from sqlalchemy import func, select

    from mmrlhf_ray.feedback.collect.tables import Annotator, Vote

    votes = select(func.count()).where(Vote.annotator_id == Annotator.id, ~Vote.undone).scalar_subquery()
    table = Table("id", "name", "role", "active", "votes", "created")
    with opened(read_config(config, overrides)) as database, database.read() as session:
        for who, count in session.execute(select(Annotator, votes).order_by(Annotator.created)):
            active, created = "yes" if who.active else "no", who.created.isoformat(timespec="seconds")
            table.add_row(who.id, who.name, who.role, active, str(count), created)
    Console().print(table)


@annotators.command()
def remove(
    name: Who,
    erase: Annotated[bool, typer.Option("--erase", help="Delete all that the account did, too.")] = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Close an account; its votes stay unless --erase is given."""
    needs("feedback")
    from mmrlhf_ray.feedback.collect.accounts import remove_annotator
    from mmrlhf_ray.feedback.collect.erase import erase_annotator
    from mmrlhf_ray.feedback.collect.tables import COMMAND

    now = datetime.now(UTC)
    with opened(read_config(config, overrides)) as database, database.write() as session:
        if erase:
            erased = erase_annotator(session, name, COMMAND, now)
            print(f"{name}: closed; {erased.votes} votes, {erased.reviews} reviews and {erased.skips} skips deleted")
        else:
            remove_annotator(session, name, COMMAND, now)
            print(f"{name}: closed")


@app.command()
def export(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A .parquet or .jsonl file.")],
    since: Annotated[str | None, typer.Option(help="ISO 8601 time with its zone: only votes after it.")] = None,
    project: Annotated[list[str] | None, typer.Option(help="Only of this project. Repeatable.")] = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Write all annotations to OUT, with prompts and media.

    Prompts and media go into the same directory. With --project, only what was asked in it.
    """
    needs("feedback")
    from mmrlhf_ray.feedback.collect.export import parse_time
    from mmrlhf_ray.feedback.collect.export_files import write_export
    from mmrlhf_ray.feedback.collect.projects import find_project
    from mmrlhf_ray.feedback.collect.tables import COMMAND, note

    after, cfg = None if since is None else parse_time(since), read_config(config, overrides)
    with opened(cfg) as database:
        with database.read() as session:
            names = [find_project(session, name).name for name in project or ()] or None
            count = write_export(session, cfg, out, after, names)
        with database.write() as session:
            note(
                session, datetime.now(UTC), COMMAND, "export", "annotations", " ".join([*(project or ()), since or ""])
            )
    print(f"{out}: {count} annotations")


@app.command()
def implicit(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new directory.")],
    kind: Annotated[
        str, typer.Option(help="demonstration = weighted labels from all events; preference = edits over originals.")
    ] = "demonstration",
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Turn what people did with responses into records.

    From the events of a deployed model to what `data.path` takes.
    """
    needs("feedback")
    from mmrlhf_ray.feedback.collect.observed import write_implicit

    cfg = read_config(config, overrides)
    with opened(cfg) as database, database.read() as session:
        count = write_implicit(session, cfg, kind, out)
    print(f"{out}: {count} records")
