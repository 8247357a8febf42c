"""The feedback database: SQLite for one machine, PostgreSQL for a team; the same tables and queries."""

import os
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url, select, text, update
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.orm import Session

from mmrlhf_ray.config import FeedbackConfig
from mmrlhf_ray.errors import ConfigError
from mmrlhf_ray.feedback.collect.tables import TABLES_VERSION, SchemaVersion

_BEGIN = "mmrlhf_begin"
_PAUSE_S = 0.02
_UPGRADE_LOCK = 726_001  # any number that is ours
_MIGRATIONS = Path(__file__).with_name("migrations")
_DRIVERS = {"sqlite": "sqlite+pysqlite", "postgresql": "postgresql+psycopg"}


@dataclass(frozen=True)
class Database:
    """An open database. `read` and `write` give a session in one transaction, which `write` commits at its end."""

    engine: Engine
    _writers: AbstractContextManager[Any]
    """Held while SQLite writes: it takes one writer at a time, and a queue is faster and fairer than its polling."""

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session that reads the current state."""
        with Session(self.engine, autoflush=False, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """All that is done in the block is durable once it ends, or undone if it raises."""
        engine = self.engine.execution_options(**{_BEGIN: "BEGIN IMMEDIATE"})
        with self._writers, Session(engine, expire_on_commit=False) as session, session.begin():
            yield session

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def open_database(config: FeedbackConfig) -> Database:
    """Open the database. A new one gets its tables, and an older SQLite file is copied, then brought up to date.

    Raises ConfigError for one that cannot be reached, was made by a newer version, or is an older PostgreSQL: see
    upgrade_database().
    """
    return _open(config, ("sqlite",))


def upgrade_database(config: FeedbackConfig) -> None:
    """Bring the tables of a database of either kind up to date, all or nothing. Raises ConfigError as open_database."""
    _open(config, tuple(_DRIVERS)).close()


def _open(config: FeedbackConfig, upgraded: tuple[str, ...]) -> Database:
    """The open database; of these kinds an older one is brought up to date."""
    url = _checked_url(config)
    shown = url.render_as_string(hide_password=True)
    if url.get_backend_name() == "sqlite":
        database = Database(_sqlite(url, config), threading.Lock())
    else:
        database = Database(_postgresql(url, config), nullcontext())
    try:
        found = _version(database.engine)
        if found < TABLES_VERSION and (found == 0 or url.get_backend_name() in upgraded):
            _upgrade(url, config)
            found = TABLES_VERSION
    except (DBAPIError, OSError) as error:
        database.close()
        cause = getattr(error, "orig", None) or error
        reason = str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
        raise ConfigError(
            f"database ({shown}): cannot be used: {reason}; is the server up, and may this user write there?"
        ) from error
    if found == TABLES_VERSION:
        return database
    database.close()
    if found < TABLES_VERSION:
        raise ConfigError(
            f"database ({shown}): its tables are of version {found}, this mmrlhf needs version {TABLES_VERSION}: stop "
            "its servers, make a backup, then run `mmrlhf feedback migrate` with the same --config"
        )
    raise ConfigError(
        f"database ({shown}): its tables are of version {found}, this mmrlhf knows version {TABLES_VERSION}; "
        "use the mmrlhf that made it, or another database"
    )


def _version(engine: Engine) -> int:
    """0 = no tables."""
    with engine.connect() as connection:
        if not inspect(connection).has_table(SchemaVersion.__tablename__):
            return 0
        return connection.scalar(select(SchemaVersion.version)) or 0


def _upgrade(url: URL, config: FeedbackConfig) -> None:
    """Run the steps that are missing, in one transaction."""
    # Here, as most databases are up to date and the server starts sooner without it.
    from alembic import command
    from alembic.config import Config

    sqlite = url.get_backend_name() == "sqlite"
    # SQLite takes a new column that refers to another table only while it does not look after foreign keys.
    engine = _sqlite(url, config, foreign_keys=False) if sqlite else _postgresql(url, config)
    steps = Config()
    steps.set_main_option("script_location", str(_MIGRATIONS))
    steps.set_main_option("version_locations", str(_MIGRATIONS / "versions"))
    steps.set_main_option("path_separator", "os")
    try:
        with engine.execution_options(**{_BEGIN: "BEGIN IMMEDIATE"}).begin() as connection:
            if not sqlite:  # two servers may start at one time
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _UPGRADE_LOCK})
            made = inspect(connection).has_table(SchemaVersion.__tablename__)
            found = connection.scalar(select(SchemaVersion.version)) if made else None
            if found is not None and found >= TABLES_VERSION:
                return
            if sqlite and found is not None:
                _copy(Path(str(url.database)), found)
            steps.attributes["connection"] = connection
            command.upgrade(steps, "head")
            connection.execute(update(SchemaVersion).values(version=TABLES_VERSION))
    finally:
        engine.dispose()


def _copy(file: Path, version: int) -> None:
    """A copy of the file next to it, as it was before an upgrade; nobody writes meanwhile."""
    out = file.with_name(f"{file.name}.version-{version}")
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    with closing(sqlite3.connect(file)) as old, closing(sqlite3.connect(partial)) as new:
        old.backup(new)
    partial.chmod(0o600)
    os.replace(partial, out)
    print(f"feedback: {file} is brought to version {TABLES_VERSION} of the tables; as it was: {out}", file=sys.stderr)


def _checked_url(config: FeedbackConfig) -> URL:
    try:
        url = make_url(config.database_url)
    except ArgumentError as error:
        raise ConfigError("database: expected sqlite:///path or postgresql://user:password@host/name") from error
    backend = url.drivername.partition("+")[0]
    if backend not in _DRIVERS:
        raise ConfigError(f"database: expected sqlite:///… or postgresql://…, got {backend}://…")
    if backend == "sqlite" and url.database in (None, "", ":memory:"):
        raise ConfigError("database: sqlite needs a file, as feedback must outlive the process; use sqlite:///path")
    return url.set(drivername=_DRIVERS[backend])


def _sqlite(url: URL, config: FeedbackConfig, *, foreign_keys: bool = True) -> Engine:
    try:
        Path(str(url.database)).resolve().parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigError(f"database (sqlite:///{url.database}): cannot make its directory: {error}") from error
    engine = create_engine(
        url,
        pool_size=config.database_connections,
        max_overflow=0,
        connect_args={"timeout": config.busy_timeout_s},
    )

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # transactions begin below, not when the driver thinks so
        cursor = connection.cursor()
        _write_ahead(cursor, config.busy_timeout_s)
        cursor.execute("PRAGMA synchronous=FULL")  # an acknowledged vote survives a power cut
        cursor.execute(f"PRAGMA foreign_keys={'ON' if foreign_keys else 'OFF'}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A writer that begins as a reader fails at its first write if another one was quicker.
        connection.exec_driver_sql(connection.get_execution_options().get(_BEGIN, "BEGIN"))

    return engine


def _write_ahead(cursor: sqlite3.Cursor, patience_s: float) -> None:
    """Where several begin a file at once, SQLite refuses this to all but one instead of waiting."""
    until = time.monotonic() + patience_s
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > until:
                raise
            time.sleep(_PAUSE_S)


def _postgresql(url: URL, config: FeedbackConfig) -> Engine:
    return create_engine(
        url,
        pool_size=config.database_connections,
        max_overflow=0,
        connect_args={"connect_timeout": 10, "options": f"-c lock_timeout={config.busy_timeout_s * 1000}"},
    )
