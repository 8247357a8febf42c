"""Opening the database: what is set, what is refused."""

import threading
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from mmrlhf_ray.config import FeedbackConfig
from mmrlhf_ray.errors import ConfigError
from mmrlhf_ray.feedback.collect.database import Database, open_database
from mmrlhf_ray.feedback.collect.tables import Lease, SchemaVersion
from tests.unit.feedback.world import NOON, person


def at(tmp_path: Path, url: str) -> FeedbackConfig:
    return FeedbackConfig(data_dir=str(tmp_path), database=SecretStr(url))


def test_what_is_acknowledged_is_on_the_disk(database: Database) -> None:
    with database.read() as session:
        found = {
            name: session.scalar(text(f"PRAGMA {name}")) for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


def test_foreign_keys_hold(database: Database) -> None:
    with pytest.raises(IntegrityError), database.write() as session:
        session.add(Lease(item_id="none", annotator_id="none", order_shown=[], expires=NOON))


def test_a_failed_block_leaves_nothing(database: Database) -> None:
    def fail() -> None:
        with database.write() as session:
            session.add(SchemaVersion(version=99))
            session.flush()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with database.read() as session:
        assert session.query(SchemaVersion).count() == 1


def test_opening_again_changes_nothing(database: Database, config: FeedbackConfig) -> None:
    who = person(database, "ann")
    again = open_database(config)
    with again.read() as session:
        assert session.scalar(text("SELECT id FROM annotator")) == who
        assert session.query(SchemaVersion).count() == 1
    again.close()


def test_several_may_open_a_fresh_one_at_once(config: FeedbackConfig) -> None:
    opened: list[Database] = []
    threads = [threading.Thread(target=lambda: opened.append(open_database(config))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 6
    for database in opened:
        database.close()


def test_a_newer_version_s_database_is_refused(database: Database, config: FeedbackConfig) -> None:
    with database.write() as session:
        session.execute(text("UPDATE schema_version SET version = 7"))
    with pytest.raises(ConfigError, match=r"tables are of version 7, this mmrlhf knows version \d+; use"):
        open_database(config)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mysql://x", "expected sqlite:///… or postgresql://…, got mysql"),
        ("sqlite://", "needs a file"),
        ("sqlite:///:memory:", "needs a file"),
        ("votes.db", "expected sqlite:///path"),
        ("postgresql://me:s3cret@127.0.0.1:1/votes", r"postgresql.*:\*\*\*@127.0.0.1:1/votes\): cannot be used"),
    ],
)
def test_databases_that_cannot_be_used(tmp_path: Path, url: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        open_database(at(tmp_path, url))
    assert "s3cret" not in str(caught.value)


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "votes.sqlite3").write_bytes(b"x" * 5000)
    with pytest.raises(ConfigError, match="file is not a database"):
        open_database(at(tmp_path, f"sqlite:///{tmp_path}/votes.sqlite3"))
