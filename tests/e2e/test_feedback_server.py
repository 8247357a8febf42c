"""50 annotators vote in three projects over HTTP while the server is killed five times: nothing is lost or counted
twice.

FEEDBACK_VOTES=10000 makes it the run that docs/feedback.md reports; more votes between two kills prove no more.
"""

import os
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mmrlhf_ray.config import FeedbackConfig
from mmrlhf_ray.demo.feedback_items import add_demo_items
from mmrlhf_ray.feedback.collect.backup import back_up, restore
from mmrlhf_ray.feedback.collect.database import open_database
from mmrlhf_ray.feedback.collect.tables import COMMAND, note
from tests.e2e.feedback_load import OVERLAP, PROJECTS, Load, check, run_load
from tests.e2e.feedback_support import postgres_binary, postgresql

pytestmark = pytest.mark.e2e

_VOTES = int(os.environ.get("FEEDBACK_VOTES", "1200"))
LOAD = Load(annotators=50, items=-(-_VOTES // (len(PROJECTS) * OVERLAP)), kills=5, processes=2)
DATABASES = [
    "sqlite",
    pytest.param(
        "postgresql", marks=pytest.mark.skipif(not postgres_binary("postgres"), reason="PostgreSQL is not installed")
    ),
]


@pytest.fixture
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    sqlite = nullcontext(f"sqlite:///{tmp_path}/votes.sqlite3")
    with postgresql() if request.param == "postgresql" else sqlite as url:
        yield url


@pytest.mark.skipif(not postgres_binary("postgres"), reason="PostgreSQL is not installed")
def test_a_collection_moves_to_postgresql_and_back(tmp_path: Path) -> None:
    with postgresql() as url:
        first, moved, back = (
            FeedbackConfig.model_validate({"data_dir": str(tmp_path / name), "database": database})
            for name, database in (("first", None), ("moved", url), ("back", None))
        )
        databases = [open_database(config) for config in (first, moved, back)]
        add_demo_items(databases[0], first)
        back_up(databases[0], first, tmp_path / "one")
        restore(databases[1], moved, tmp_path / "one")
        with databases[1].write() as session:
            note(session, datetime.now(UTC), COMMAND, "export")  # the numbers of the audit log go on
        back_up(databases[1], moved, tmp_path / "two")
        restore(databases[2], back, tmp_path / "two")
        for database in databases:
            database.close()
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / name).glob("*.jsonl")} for name in ("one", "two"))
    assert two.pop("audit.jsonl").splitlines()[:-1] == one.pop("audit.jsonl").splitlines()
    assert one == two
    assert len(one["item.jsonl"].splitlines()) > 30


@pytest.mark.parametrize("database", DATABASES, indirect=True)
def test_no_vote_is_lost_or_counted_twice(database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = run_load(LOAD, database, tmp_path)
    with capsys.disabled():
        print(f"\n{outcome.summary(database.partition(':')[0])}")
    check(outcome)
