"""Commands of `mmrlhf feedback` that fill, copy and restore the database, and what all that open it have in common."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmrlhf_ray.errors import ConfigError, needs

if TYPE_CHECKING:
    from mmrlhf_ray.config import FeedbackConfig
    from mmrlhf_ray.feedback.collect.database import Database

app = typer.Typer()

TOKEN = "MMRLHF_FEEDBACK_TOKEN"
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="YAML file with the keys of docs/feedback.md, `data_dir`, `port`, …")
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Key to replace, e.g. port=9000. Repeatable.")
]


@app.command()
def add(
    path: Annotated[
        Path, typer.Argument(metavar="RUN|FILE", help="Run whose responses were kept, or rows of a known format.")
    ],
    other: Annotated[
        Path | None, typer.Argument(metavar="[RUN]", help="Second run: compare one response of each to a prompt.")
    ] = None,
    question: Annotated[str, typer.Option(help="pair, rank, rate, correct, demonstrate, spans or critique.")] = "pair",
    step: Annotated[int | None, typer.Option(min=0, help="Of an online run; default: the last that was kept.")] = None,
    per_prompt: Annotated[int, typer.Option(min=1, help="Most items about one prompt.")] = 1,
    prompts: Annotated[int | None, typer.Option(min=1, help="Most prompts, the first; default: all.")] = None,
    overlap: Annotated[int | None, typer.Option(min=1, help="People for each item; default: as configured.")] = None,
    priority: Annotated[float, typer.Option(help="Higher is asked first.")] = 0.0,
    round_: Annotated[int, typer.Option("--round", min=0, help="Number to tell these items by.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw, and of which response comes first.")] = 0,
    suggest: Annotated[
        bool, typer.Option("--suggest", help="Pairs and rankings carry the order of the run's scores as a suggestion.")
    ] = False,
    project: Annotated[str, typer.Option(help="Name of the project that they go into.")] = "default",
    assign: Annotated[str, typer.Option(metavar="WHO", help="Ask only this account, or @ and a group.")] = "",
    url: Annotated[
        str | None, typer.Option(help=f"Server to send them to, with an administrator's token in {TOKEN}.")
    ] = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Ask people about the responses of a run or a file.

    Into the database that the configuration names, or to a server; what is there already is not added again.
    """
    needs("feedback")
    from mmrlhf_ray.feedback.client import ItemsClient
    from mmrlhf_ray.pipelines.runs.questions import (
        Ask,
        compared,
        put_into_database,
        put_on_server,
        questions,
        read_asked,
    )

    token = os.environ.get(TOKEN)
    if url is not None and not token:
        raise ConfigError(f"{TOKEN} is not set; export an administrator's token of {url} in it")
    cfg = read_config(config, overrides)
    asked = read_asked(path, step)
    if other is not None:
        asked = compared(asked, read_asked(other, step))
    found = questions(asked[:prompts], Ask(question, per_prompt, overlap, priority, round_, seed, suggest, assign))
    if url is not None and token:
        with ItemsClient(url, token) as client:
            counts = put_on_server(found, client, project)
    else:
        with opened(cfg) as database:
            counts = put_into_database(found, database, cfg, project)
    print(f"{counts.added} items added, {counts.present} were there already")
    if found.too_few:
        print(f"{found.too_few} prompts left out: too few different responses for the question {question!r}")
    if found.without_media:
        print(f"{found.without_media} prompts left out: the run did not keep what they show; raise its media_kept_mb")


@app.command()
def backup(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new directory.")],
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Copy everything that was collected, also while the app runs.

    Rows of the database as they are at one moment, and the media. The directory holds the hashes of tokens.
    """
    needs("feedback")
    from mmrlhf_ray.feedback.collect.backup import back_up

    cfg = read_config(config, overrides)
    with opened(cfg) as database:
        counts = back_up(database, cfg, out)
    print(f"{out}: {_said(counts)}")


@app.command()
def restore(
    source: Annotated[Path, typer.Argument(metavar="BACKUP", help="What `mmrlhf feedback backup` wrote.")],
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Put a backup into an empty database, of either kind."""
    needs("feedback")
    from mmrlhf_ray.feedback.collect.backup import restore as restore_from

    cfg = read_config(config, overrides)
    with opened(cfg) as database:
        counts = restore_from(database, cfg, source)
    print(f"{source}: {_said(counts)} restored")


@app.command()
def migrate(config: ConfigFile = None, overrides: Overrides = None) -> None:
    """Bring an older database up to date, all or nothing.

    A SQLite file is copied first, and every other command does the same with it. PostgreSQL is changed by this command
    only: stop its servers and make a backup before.
    """
    needs("feedback")
    from mmrlhf_ray.feedback.collect.database import upgrade_database
    from mmrlhf_ray.feedback.collect.tables import TABLES_VERSION

    upgrade_database(read_config(config, overrides))
    print(f"the database has the tables of version {TABLES_VERSION}")


def _said(counts: Mapping[str, int]) -> str:
    return (
        f"{counts['item']} items, {counts['vote']} votes, {counts['media_file']} media, {counts['annotator']} accounts"
    )


def read_config(file: Path | None, overrides: list[str] | None) -> "FeedbackConfig":
    """The configuration of the app. Raises ConfigError."""
    from mmrlhf_ray.config import FeedbackConfig, load_config

    return load_config(file, overrides or [], FeedbackConfig)


@contextmanager
def opened(config: "FeedbackConfig") -> "Iterator[Database]":
    """The database, for one command. A request that cannot be met ends it with one line and status 2."""
    from mmrlhf_ray.feedback.collect.database import open_database

    database = open_database(config)
    try:
        yield database
    finally:
        database.close()
