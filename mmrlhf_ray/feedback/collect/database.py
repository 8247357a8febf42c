"""The feedback database: SQLite for one machine, PostgreSQL for a team; the same tables and queries."""

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url, select, text
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.orm import Session

from mmrlhf_ray.config import FeedbackConfig
from mmrlhf_ray.errors import ConfigError
from mmrlhf_ray.feedback.collect.tables import TABLES_VERSION, Base, SchemaVersion

_BEGIN = "mmrlhf_begin"
_CREATE_LOCK = 726_001  # any number that is ours
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
    """Open the database, making its tables where they are missing.

    Raises ConfigError for one that cannot be reached, or was made by a newer version.
    """
    url = _checked_url(config)
    shown = url.render_as_string(hide_password=True)
    if url.get_backend_name() == "sqlite":
        database = Database(_sqlite(url, config), threading.Lock())
    else:
        database = Database(_postgresql(url, config), nullcontext())
    try:
        with database.write() as session:
            _create(session.connection())
            found = session.scalar(select(SchemaVersion.version))
            if found is None:
                session.add(SchemaVersion(version=TABLES_VERSION))
    except (DBAPIError, OSError) as error:
        database.close()
        cause = getattr(error, "orig", None) or error
        reason = str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
        raise ConfigError(
            f"database ({shown}): cannot be used: {reason}; is the server up, and may this user write there?"
        ) from error
    if found is not None and found != TABLES_VERSION:
        database.close()
        raise ConfigError(
            f"database ({shown}): its tables are of version {found}, this mmrlhf knows version {TABLES_VERSION}; "
            "use the mmrlhf that made it, or another database"
        )
    return database


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


def _sqlite(url: URL, config: FeedbackConfig) -> Engine:
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
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")  # an acknowledged vote survives a power cut
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A writer that begins as a reader fails at its first write if another one was quicker.
        connection.exec_driver_sql(connection.get_execution_options().get(_BEGIN, "BEGIN"))

    return engine


def _postgresql(url: URL, config: FeedbackConfig) -> Engine:
    return create_engine(
        url,
        pool_size=config.database_connections,
        max_overflow=0,
        connect_args={"connect_timeout": 10, "options": f"-c lock_timeout={config.busy_timeout_s * 1000}"},
    )


def _create(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":  # two servers may start at one time
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _CREATE_LOCK})
    made = inspect(connection).has_table(SchemaVersion.__tablename__)
    if not made or connection.scalar(select(SchemaVersion.version)) in (None, TABLES_VERSION):
        Base.metadata.create_all(connection)  # those that are missing
