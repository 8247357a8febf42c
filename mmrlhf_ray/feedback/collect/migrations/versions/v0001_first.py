"""The tables as they were before there were migrations.

A database of that time has some or all of them: tables that were new were made where they were missing.
"""

from datetime import datetime

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make what is missing."""
    _people()
    _items()
    _answers()
    _deployed()
    op.create_table("schema_version", sa.Column("version", sa.Integer(), primary_key=True), if_not_exists=True)
    if op.get_bind().scalar(sa.text("SELECT count(*) FROM schema_version")) == 0:
        op.execute("INSERT INTO schema_version (version) VALUES (1)")


def _index(name: str, table: str, *columns: str) -> None:
    op.create_index(name, table, columns, if_not_exists=True)


def _text(name: str, length: int | None = None, *, key: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text() if length is None else sa.String(length), nullable=False, primary_key=key)


def _time(name: str) -> sa.Column[datetime]:
    return sa.Column(name, _TIME, nullable=False)


def _json(*names: str) -> list[sa.Column[object]]:
    return [sa.Column(name, sa.JSON(), nullable=False) for name in names]


def _whole(name: str, *, big: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger() if big else sa.Integer(), nullable=False)


def _of(name: str, table: str, length: int, *, key: bool = False) -> sa.Column[str]:
    """A column that names a row of another table."""
    return sa.Column(name, sa.String(length), sa.ForeignKey(f"{table}.id"), nullable=False, primary_key=key)


def _people() -> None:
    op.create_table(
        "annotator",
        _text("id", 32, key=True),
        sa.Column("name", sa.String(80), nullable=False, unique=True),
        _text("role", 16),
        sa.Column("token_hash", sa.String(64), unique=True),
        sa.Column("active", sa.Boolean(), nullable=False),
        _time("created"),
        if_not_exists=True,
    )
    op.create_table(
        "web_session",
        _text("cookie_hash", 64, key=True),
        _of("annotator_id", "annotator", 32),
        _time("expires"),
        if_not_exists=True,
    )
    _index("ix_web_session_annotator_id", "web_session", "annotator_id")
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=True),
        _time("at"),
        _text("actor", 64),
        _text("action", 40),
        _text("target", 200),
        _text("detail"),
        if_not_exists=True,
    )
    _index("audit_action", "audit", "action", "at")


def _items() -> None:
    op.create_table(
        "media_file",
        _text("media_id", 64, key=True),
        _text("kind", 16),
        _text("mime", 40),
        _whole("size", big=True),
        if_not_exists=True,
    )
    op.create_table(
        "item",
        _text("id", 64, key=True),
        _text("prompt_id", 200),
        *_json("messages", "media_ids"),
        _text("task"),
        _text("modality", 16),
        *_json("extras", "responses"),
        _text("question", 16),
        _whole("overlap"),
        sa.Column("priority", sa.Double(), nullable=False),
        _whole("position", big=True),
        _whole("round"),
        sa.Column("gold", sa.JSON(none_as_null=True)),
        _whole("votes"),
        _time("created"),
        if_not_exists=True,
    )
    _index("ix_item_prompt_id", "item", "prompt_id")
    room = sa.text("votes < overlap")
    order: list[str | sa.TextClause] = [sa.text("priority DESC"), "position"]
    op.create_index("item_open", "item", [*order], if_not_exists=True, sqlite_where=room, postgresql_where=room)
    op.create_table(
        "suggestion",
        _of("item_id", "item", 64, key=True),
        _text("source"),
        *_json("answer"),
        _time("created"),
        if_not_exists=True,
    )
    op.create_table(
        "suggestion_seen",
        _of("item_id", "item", 64, key=True),
        _of("annotator_id", "annotator", 32, key=True),
        _time("at"),
        if_not_exists=True,
    )
    _index("ix_suggestion_seen_annotator_id", "suggestion_seen", "annotator_id")


def _answers() -> None:
    op.create_table(
        "lease",
        _of("item_id", "item", 64, key=True),
        _of("annotator_id", "annotator", 32, key=True),
        *_json("order_shown"),
        _time("expires"),
        if_not_exists=True,
    )
    _index("ix_lease_annotator_id", "lease", "annotator_id")
    op.create_table(
        "vote",
        _text("id", 36, key=True),
        _of("item_id", "item", 64),
        _of("annotator_id", "annotator", 32),
        _text("question", 16),
        *_json("answer", "order_shown"),
        _whole("milliseconds", big=True),
        _time("created"),
        sa.Column("undone", sa.Boolean(), nullable=False),
        if_not_exists=True,
    )
    _index("ix_vote_created", "vote", "created")
    _index("ix_vote_item_id", "vote", "item_id")
    _index("vote_by_annotator", "vote", "annotator_id", "created")
    op.create_index(
        "vote_in_force",
        "vote",
        ["item_id", "annotator_id"],
        unique=True,
        if_not_exists=True,
        sqlite_where=sa.text("undone = 0"),
        postgresql_where=sa.text("NOT undone"),
    )
    op.create_table(
        "skip",
        _of("item_id", "item", 64, key=True),
        _of("annotator_id", "annotator", 32, key=True),
        _text("reason", 40),
        _text("comment"),
        _time("created"),
        if_not_exists=True,
    )
    op.create_table(
        "review",
        _of("item_id", "item", 64, key=True),
        _of("reviewer_id", "annotator", 32),
        _text("question", 16),
        *_json("answer", "order_shown"),
        _whole("milliseconds", big=True),
        _time("created"),
        if_not_exists=True,
    )
    _index("ix_review_reviewer_id", "review", "reviewer_id")


def _deployed() -> None:
    op.create_table(
        "logged_response",
        _text("id", 64, key=True),
        _text("prompt_id", 200),
        *_json("messages", "media_ids"),
        _text("task"),
        _text("modality", 16),
        *_json("extras"),
        _text("text"),
        _text("source"),
        _time("created"),
        if_not_exists=True,
    )
    _index("ix_logged_response_created", "logged_response", "created")
    op.create_table(
        "event",
        _text("id", 64, key=True),
        _of("response_id", "logged_response", 64),
        _text("kind", 24),
        *_json("value"),
        _time("created"),
        if_not_exists=True,
    )
    _index("ix_event_created", "event", "created")
    _index("ix_event_response_id", "event", "response_id")
    op.create_table(
        "out_message",
        _text("id", 32, key=True),
        _text("event", 40),
        *_json("body"),
        _time("created"),
        _time("due"),
        _whole("attempts"),
        if_not_exists=True,
    )
    _index("ix_out_message_due", "out_message", "due")
