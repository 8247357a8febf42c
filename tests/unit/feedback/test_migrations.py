"""Databases of earlier versions are carried over, and end as new ones begin."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from pydantic import SecretStr
from sqlalchemy import Connection, create_engine, select, text

from mmrlhf_ray.config import FeedbackConfig
from mmrlhf_ray.errors import ConfigError
from mmrlhf_ray.feedback.collect.database import Database, open_database, upgrade_database
from mmrlhf_ray.feedback.collect.export import annotation_rows
from mmrlhf_ray.feedback.collect.tables import TABLES_VERSION, Annotator, Base, Item, SchemaVersion
from tests.e2e.feedback_support import postgres_binary, postgresql

_VERSION_1 = Path(__file__).with_name("data") / "version_1.sql"
"""A dump of what the version before migrations wrote: five items, six votes of two people, a lease. The other file is
the same from PostgreSQL."""
_VERSIONS = Path(__file__).parents[3] / "mmrlhf_ray/feedback/collect/migrations/versions"


@pytest.fixture
def old(config: FeedbackConfig) -> FeedbackConfig:
    """Its database is of version 1."""
    file = Path(config.data_dir) / "feedback.sqlite3"
    file.parent.mkdir()
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript(_VERSION_1.read_text())
    return config


@contextmanager
def connected(config: FeedbackConfig) -> Iterator[Connection]:
    engine = create_engine(config.database_url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def differences(config: FeedbackConfig) -> list[object]:
    """Between the database and tables.py. Alembic's own table is no difference, and SQLite's `item_open` cannot be
    compared, as its order is an expression; the same statement makes that of PostgreSQL, which can."""
    with connected(config) as connection:
        found = compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), Base.metadata)
    ours = {"remove_table": {"alembic_version"}, "remove_index": {"item_open"}, "add_index": {"item_open"}}
    left_out = ours if config.database is None else {"remove_table": {"alembic_version"}}
    return [step for step in found if not (isinstance(step, tuple) and step[1].name in left_out.get(step[0], ()))]


def check_carried_over(database: Database) -> None:
    with database.read() as session:
        assert session.scalar(select(SchemaVersion.version)) == TABLES_VERSION
        assert {item.project for item in session.scalars(select(Item))} == {"default"}
        rows = list(annotation_rows(session))
        names = {row.id: row.name for row in session.scalars(select(Annotator))}
    liked = {(names[row["annotator_id"]], row["responses"][row["ranks"].index(1)]) for row in rows}
    assert liked == {(name, f"good {number}") for name in ("Ann", "Ben") for number in (1, 2, 3)}


def test_the_number_is_that_of_the_last_step() -> None:
    steps = sorted(path.name[:5] for path in _VERSIONS.glob("v*.py"))
    assert steps == [f"v{number:04d}" for number in range(1, TABLES_VERSION + 1)]


def test_a_new_database_has_the_tables_that_the_code_knows(database: Database, config: FeedbackConfig) -> None:
    assert differences(config) == [], "change tables.py together with a file in collect/migrations/versions"


def test_an_old_file_is_copied_and_carried_over(old: FeedbackConfig, capsys: pytest.CaptureFixture[str]) -> None:
    database = open_database(old)
    check_carried_over(database)
    database.close()
    assert differences(old) == []
    copy = Path(old.data_dir) / "feedback.sqlite3.version-1"
    assert str(copy) in capsys.readouterr().err
    assert copy.stat().st_mode & 0o077 == 0
    with closing(sqlite3.connect(copy)) as kept:
        assert kept.execute("SELECT version FROM schema_version").fetchall() == [(1,)]
        assert kept.execute("SELECT count(*) FROM vote").fetchone() == (6,)
    open_database(old).close()
    assert capsys.readouterr().err == "", "once is enough"


def test_an_upgrade_that_fails_changes_nothing(old: FeedbackConfig) -> None:
    file = Path(old.data_dir) / "feedback.sqlite3"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE project_group (something TEXT)")  # in the way of the second step's third table
    with pytest.raises(ConfigError, match="table project_group already exists"):
        open_database(old)
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("SELECT version FROM schema_version").fetchall() == [(1,)]
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert not tables & {"project", "alembic_version"}


def test_tables_that_an_old_file_lacked_are_made(old: FeedbackConfig) -> None:
    with closing(sqlite3.connect(Path(old.data_dir) / "feedback.sqlite3")) as connection:
        connection.execute("DROP TABLE out_message")
    database = open_database(old)
    with database.read() as session:
        assert session.scalar(text("SELECT count(*) FROM out_message")) == 0
    database.close()


@pytest.mark.skipif(not postgres_binary("postgres"), reason="PostgreSQL is not installed")
def test_postgresql_waits_for_the_command(tmp_path: Path) -> None:
    with postgresql() as url:
        config = FeedbackConfig(data_dir=str(tmp_path), database=SecretStr(url))
        with connected(config) as connection:
            connection.exec_driver_sql(_VERSION_1.with_stem("version_1_postgresql").read_text())
            connection.commit()
        with pytest.raises(ConfigError, match=r"of version 1.*run `mmrlhf feedback migrate`"):
            open_database(config)
        upgrade_database(config)
        database = open_database(config)
        check_carried_over(database)
        assert differences(config) == []
        database.close()
