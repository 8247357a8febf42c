"""A feedback database in a file, and the app over it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from mmrlhf_ray.config import FeedbackConfig
from mmrlhf_ray.feedback.app import create_app
from mmrlhf_ray.feedback.collect.accounts import add_annotator
from mmrlhf_ray.feedback.collect.database import Database, open_database
from tests.unit.feedback.world import NOON, World, person


@pytest.fixture
def config(tmp_path: Path) -> FeedbackConfig:
    return FeedbackConfig(data_dir=str(tmp_path / "feedback"), overlap=2, gold_share=0.0, lease_s=60)


@pytest.fixture
def database(config: FeedbackConfig) -> Iterator[Database]:
    opened = open_database(config)
    yield opened
    opened.close()


@pytest.fixture
def ann(database: Database) -> str:
    return person(database, "ann")


@pytest.fixture
def bob(database: Database) -> str:
    return person(database, "bob")


@pytest.fixture
def world(config: FeedbackConfig) -> Iterator[World]:
    app = create_app(config)
    database = app.state.feedback.database
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as http:
        world = World(app, config, database, http)
        for role in ("annotator", "reviewer", "admin", "client"):
            with database.write() as session:
                world.tokens[role] = add_annotator(session, role, role, "test", NOON)[1]
        yield world
