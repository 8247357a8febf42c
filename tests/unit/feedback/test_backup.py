"""What is restored from a backup equals what was backed up."""

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from mmrlhf_ray.config import FeedbackConfig
from mmrlhf_ray.errors import ConfigError
from mmrlhf_ray.feedback.collect.backup import back_up, restore
from mmrlhf_ray.feedback.collect.database import Database, open_database
from mmrlhf_ray.feedback.collect.tables import Base, note
from tests.unit.feedback.test_api import IMAGE, upload, vote
from tests.unit.feedback.world import NOON, World, fill, pair


def everything(database: Database) -> dict[str, list[Any]]:
    with database.read() as session:
        return {
            table.name: [tuple(row) for row in session.execute(select(table).order_by(*table.primary_key.columns))]
            for table in Base.metadata.sorted_tables
        }


@pytest.fixture
def used(world: World) -> World:
    """Rows in every table but those of a deployed model."""
    image = upload(world, IMAGE)
    suggestion = {"answer": {"choice": "tie"}, "source": "模型"}
    fill(
        world.database,
        world.config,
        pair("一", item_id="a", suggestion=suggestion),
        pair("gold", item_id="b", gold={"choice": "left"}),
        {"prompt": "<image> ?", "media_ids": [image], "question": "critique", "responses": ["x"], "item_id": "c"},
    )
    vote(world, {"choice": "left", "critique": "“好”\n"})
    world.call("annotator", "POST", "/api/lease")
    world.call("reviewer", "POST", "/api/lease")
    world.call("reviewer", "POST", "/api/skip", json={"item_id": "a", "reason": "other"})
    body = {"item_id": "a", "answer": {"choice": "left"}}
    assert world.call("reviewer", "POST", "/api/reviews", json=body).status_code == 201
    world.log_in("admin")
    return world


@pytest.fixture
def other(tmp_path: Path) -> FeedbackConfig:
    return FeedbackConfig(data_dir=str(tmp_path / "restored"))


def test_the_restored_equals_the_original(used: World, other: FeedbackConfig, tmp_path: Path) -> None:
    counts = back_up(used.database, used.config, tmp_path / "backup")
    unused = {"event", "logged_response", "suggestion_seen", "out_message", "arena_battle", "identity"}
    unused |= {"project_person", "project_group", "group_member"}
    assert {name for name, count in counts.items() if not count} == unused
    assert (tmp_path / "backup").stat().st_mode & 0o077 == 0
    database = open_database(other)
    assert restore(database, other, tmp_path / "backup") == counts
    assert everything(database) == everything(used.database)
    media = [sorted(path.read_bytes() for path in Path(c.data_dir, "media").iterdir()) for c in (used.config, other)]
    assert media[0] == media[1] == [IMAGE]
    with database.write() as session:
        note(session, NOON, "command", "export")  # numbers of the audit log go on
    assert len(everything(database)["audit"]) == counts["audit"] + 1
    database.close()


def test_only_an_empty_database_is_restored_into(used: World, other: FeedbackConfig, tmp_path: Path) -> None:
    back_up(used.database, used.config, tmp_path / "backup")
    before = everything(used.database)
    with pytest.raises(ConfigError, match="has rows already; restore into an empty database"):
        restore(used.database, used.config, tmp_path / "backup")
    assert everything(used.database) == before
    with pytest.raises(ConfigError, match="is there already; name a new directory"):
        back_up(used.database, used.config, tmp_path / "backup")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: (path / "backup.json").unlink(), "expected a directory that"),
        (lambda path: (path / "backup.json").write_text('{"version": 9, "rows": {}}'), "tables of version 9"),
        (lambda path: (path / "vote.jsonl").write_text(""), r"vote.jsonl has 0 rows, expected 1"),
        (lambda path: next((path / "media").iterdir()).write_bytes(b"x"), "not those of its name"),
        (lambda path: next((path / "media").iterdir()).unlink(), "1 media files are missing"),
    ],
)
def test_a_damaged_backup_restores_nothing(
    used: World, other: FeedbackConfig, tmp_path: Path, damage: Any, message: str
) -> None:
    back_up(used.database, used.config, tmp_path / "backup")
    damage(tmp_path / "backup")
    database = open_database(other)
    new = everything(database)
    with pytest.raises(ConfigError, match=message):
        restore(database, other, tmp_path / "backup")
    assert everything(database) == new
    database.close()


def test_a_backup_of_a_time_before_projects_is_restored_into_the_first(
    used: World, other: FeedbackConfig, tmp_path: Path
) -> None:
    back_up(used.database, used.config, tmp_path / "backup")
    about = json.loads((tmp_path / "backup" / "backup.json").read_text())
    later = ("project", "project_person", "project_group", "group_member")
    for name in later:
        (tmp_path / "backup" / f"{name}.jsonl").unlink()
        del about["rows"][name]
    (tmp_path / "backup" / "backup.json").write_text(json.dumps(about | {"version": 1}))
    items = tmp_path / "backup" / "item.jsonl"
    rows = [json.loads(line) for line in items.read_text().splitlines()]
    new = ("project", "assigned_person", "assigned_group")
    old = [{key: row[key] for key in row if key not in new} for row in rows]
    items.write_text("".join(json.dumps(row) + "\n" for row in old))
    database = open_database(other)
    restore(database, other, tmp_path / "backup")
    assert everything(database)["item"] == everything(used.database)["item"]
    assert len(everything(database)["project"]) == 1
    database.close()


def test_a_backup_that_fails_leaves_nothing(used: World, tmp_path: Path) -> None:
    next(Path(used.config.data_dir, "media").iterdir()).unlink()
    with pytest.raises(FileNotFoundError):
        back_up(used.database, used.config, tmp_path / "backup")
    assert not [path for path in tmp_path.iterdir() if "backup" in path.name]


def test_rows_are_plain_json(used: World, tmp_path: Path) -> None:
    back_up(used.database, used.config, tmp_path / "backup")
    (row,) = [json.loads(line) for line in (tmp_path / "backup" / "vote.jsonl").read_text().splitlines()]
    assert row["answer"]["critique"] == "“好”\n"
    assert row["created"].endswith("+00:00")
