"""The app with accounts, and short ways to fill its queue."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from fastapi import FastAPI
from fastapi.testclient import TestClient

from mmrlhf_ray.config import FeedbackConfig
from mmrlhf_ray.feedback.collect.accounts import add_annotator
from mmrlhf_ray.feedback.collect.database import Database
from mmrlhf_ray.feedback.collect.items import add_items

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


def person(database: Database, name: str, role: str = "annotator") -> str:
    """annotator_id of a new account."""
    with database.write() as session:
        return add_annotator(session, name, role, "test", NOON)[0].id


def pair(prompt: str = "q", **others: Any) -> dict[str, Any]:
    return {"prompt": prompt, "question": "pair", "responses": [f"{prompt} a", f"{prompt} b"], **others}


def fill(database: Database, config: FeedbackConfig, *rows: dict[str, Any]) -> tuple[str, ...]:
    """item_ids."""
    with database.write() as session:
        return add_items(session, rows, config, NOON).item_ids


@dataclass
class World:
    """The app, with one account of each role. `http` sends no cookie or token by itself."""

    app: FastAPI
    config: FeedbackConfig
    database: Database
    http: TestClient
    tokens: dict[str, str] = field(default_factory=dict)

    def call(self, role: str, method: str, path: str, **options: Any) -> Any:
        headers = {"authorization": f"Bearer {self.tokens[role]}"} | options.pop("headers", {})
        return self.http.request(method, path, headers=headers, follow_redirects=False, **options)

    def log_in(self, role: str) -> TestClient:
        """A browser with a session."""
        browser = TestClient(self.app, base_url="http://127.0.0.1", follow_redirects=False)
        page = browser.get("/login")
        csrf = page.text.split('name="csrf" value="')[1].split('"')[0]
        answer = browser.post("/login", data={"token": self.tokens[role], "csrf": csrf})
        assert answer.status_code == 303, answer.text
        return browser
