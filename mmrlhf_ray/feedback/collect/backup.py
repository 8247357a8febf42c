"""A copy of a collection: every row of the database at one moment, and the media. It can be taken while the app runs.

The rows are JSON lines, one file for each table, so that what was collected in SQLite can be restored into PostgreSQL,
and the other way round.
"""

import json
import os
import shutil
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Table, delete, func, insert, select, text
from sqlalchemy.orm import Session

from mmrlhf_ray.config import FeedbackConfig
from mmrlhf_ray.data.media import media_id
from mmrlhf_ray.errors import ConfigError
from mmrlhf_ray.feedback.collect.database import Database
from mmrlhf_ray.feedback.collect.export import BATCH
from mmrlhf_ray.feedback.collect.media_files import media_dir, write_media
from mmrlhf_ray.feedback.collect.tables import (
    DEFAULT_PROJECT,
    TABLES_VERSION,
    Base,
    MediaFile,
    Project,
    SchemaVersion,
    UtcDateTime,
)

_ABOUT = "backup.json"
_MEDIA = "media"
_TABLES = [table for table in Base.metadata.sorted_tables if table.name != SchemaVersion.__tablename__]
"""Those that others refer to come first."""


def back_up(database: Database, config: FeedbackConfig, out: Path) -> dict[str, int]:
    """Write a backup to the new directory `out`, completely or not at all; returns the rows of each table.

    It holds the hashes of tokens, so only this user may read it. Raises ConfigError where `out` is there already.
    """
    if out.exists():
        raise ConfigError(f"{out} is there already; name a new directory")
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    partial.mkdir(parents=True, mode=0o700)
    try:
        with database.read() as session:
            _one_moment(session)
            counts = {table.name: _write(session, table, partial) for table in _TABLES}
            shown = list(session.scalars(select(MediaFile.media_id)))
        (partial / _MEDIA).mkdir()
        for name in shown:  # media are only added, so those of that moment are there
            shutil.copyfile(media_dir(config) / name, partial / _MEDIA / name)
        (partial / _ABOUT).write_text(json.dumps({"version": TABLES_VERSION, "rows": counts}, indent=1))
        os.replace(partial, out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return counts


def restore(database: Database, config: FeedbackConfig, source: Path) -> dict[str, int]:
    """Put a backup into an empty database and its data_dir, all or nothing; returns the rows of each table.

    A backup of an earlier version's tables is carried over. Raises ConfigError for a directory that is not a complete
    backup, one of later tables, media that have changed, and for a database that is not empty.
    """
    counts = _about(source)
    names = sorted(path.name for path in (source / _MEDIA).iterdir())
    with database.write() as session:
        _check_empty(session)
        if counts[Project.__tablename__]:  # else it is of a time before projects, and all goes into the first one
            session.execute(delete(Project))
        connection = session.connection()
        for table in _TABLES:
            found = _read(connection, table, source / f"{table.name}.jsonl")
            if found != counts[table.name]:
                raise ConfigError(f"{source}: {table.name}.jsonl has {found} rows, expected {counts[table.name]}")
        for name in names:
            data = (source / _MEDIA / name).read_bytes()
            if media_id(data) != name:
                raise ConfigError(f"{source / _MEDIA / name}: its bytes are not those of its name; take another backup")
            write_media(config, name, data)
        lacking = set(session.scalars(select(MediaFile.media_id))) - set(names)
        if lacking:
            raise ConfigError(f"{source}: {len(lacking)} media files are missing, first {min(lacking)}")
    return counts


def _check_empty(session: Session) -> None:
    """Raises ConfigError; the project that every database has does not count."""
    for table in _TABLES:
        counted = select(func.count()).select_from(table)
        if table.name == Project.__tablename__:
            counted = counted.where(Project.name != DEFAULT_PROJECT)
        if session.scalar(counted):
            raise ConfigError(f"database: table {table.name} has rows already; restore into an empty database")


def _about(source: Path) -> dict[str, int]:
    try:
        about = json.loads((source / _ABOUT).read_text())
        version, counts = about["version"], dict(about["rows"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{source}: expected a directory that `mmrlhf feedback backup` wrote: {error}") from error
    if not isinstance(version, int) or not 1 <= version <= TABLES_VERSION:
        raise ConfigError(
            f"{source}: holds tables of version {version}, this mmrlhf knows versions up to {TABLES_VERSION}; use the "
            "mmrlhf that wrote it"
        )
    return {table.name: int(counts.get(table.name, 0)) for table in _TABLES}


def _one_moment(session: Session) -> None:
    """All reads see the same rows; those of SQLite do by themselves."""
    if session.get_bind().dialect.name == "postgresql":
        session.connection(execution_options={"isolation_level": "REPEATABLE READ"})


def _write(session: Session, table: Table, directory: Path) -> int:
    count = 0
    with (directory / f"{table.name}.jsonl").open("w", encoding="utf-8") as file:
        order = select(table).order_by(*table.primary_key.columns)
        for row in session.execute(order, execution_options={"yield_per": BATCH}).mappings():
            file.write(json.dumps(dict(row), ensure_ascii=False, default=datetime.isoformat) + "\n")
            count += 1
        file.flush()
        os.fsync(file.fileno())
    return count


def _read(connection: Connection, table: Table, file: Path) -> int:
    if not file.exists():  # a table that came later
        return 0
    count = 0
    for rows in _batches(table, file):
        connection.execute(insert(table), rows)
        count += len(rows)
    own = table.autoincrement_column
    if count and own is not None and connection.dialect.name == "postgresql":
        setting = "SELECT setval(pg_get_serial_sequence(:table, :column), :last)"
        last = connection.scalar(select(func.max(own)))
        connection.execute(text(setting), {"table": table.name, "column": own.name, "last": last})
    return count


def _batches(table: Table, file: Path) -> Iterator[list[dict[str, Any]]]:
    times = [column.name for column in table.columns if isinstance(column.type, UtcDateTime)]
    rows: list[dict[str, Any]] = []
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            rows.append(row | {name: datetime.fromisoformat(row[name]) for name in times if row[name] is not None})
            if len(rows) == BATCH:
                yield rows
                rows = []
    if rows:
        yield rows
