"""The tables of the feedback database. Times are UTC; what is JSON holds plain lists, objects, text and numbers."""

from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    String,
    Text,
    TypeDecorator,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

TABLES_VERSION = 3
"""Number of the last file in migrations/versions: every change of a table comes with one more, and raises this."""

Role = Literal["annotator", "reviewer", "admin", "client"]
ROLES: tuple[Role, ...] = ("annotator", "reviewer", "admin", "client")
"""A client is a deployed model's application: it reports responses and events, and does nothing else."""

DEFAULT_PROJECT = "default"
"""The project of items that name none; every database has it."""

JsonObject = dict[str, Any]


class UtcDateTime(TypeDecorator[datetime]):
    """SQLite forgets time zones."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """All tables."""

    type_annotation_map = {  # noqa: RUF012 -- SQLAlchemy reads it from the class
        datetime: UtcDateTime,
        JsonObject: JSON,
        list[str]: JSON,
        list[int]: JSON,
        list[JsonObject]: JSON,
        str: Text,
    }


class SchemaVersion(Base):
    """One row: the TABLES_VERSION of the database, which is read first of all. Alembic keeps the same in a table of its
    own."""

    __tablename__ = "schema_version"

    version: Mapped[int] = mapped_column(primary_key=True)


class Annotator(Base):
    """Somebody, or a program, with a token."""

    __tablename__ = "annotator"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    name: Mapped[str] = mapped_column(String(80), unique=True)
    role: Mapped[str] = mapped_column(String(16))
    token_hash: Mapped[str | None] = mapped_column(String(64), unique=True)
    """SHA-256; none once the account is removed, and for who signs in with a provider."""
    active: Mapped[bool] = mapped_column(default=True)
    created: Mapped[datetime]


class Identity(Base):
    """Somebody whom an OpenID Connect provider knows, and their account here."""

    __tablename__ = "identity"

    issuer: Mapped[str] = mapped_column(String(255), primary_key=True)
    subject: Mapped[str] = mapped_column(String(255), primary_key=True)
    """The provider's name for them, which never changes."""
    annotator_id: Mapped[str] = mapped_column(ForeignKey("annotator.id"), index=True)


class WebSession(Base):
    """A browser that is logged in."""

    __tablename__ = "web_session"

    cookie_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    annotator_id: Mapped[str] = mapped_column(ForeignKey("annotator.id"), index=True)
    expires: Mapped[datetime]


class MediaFile(Base):
    """Media whose bytes are in data_dir/media under their sha256."""

    __tablename__ = "media_file"

    media_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    mime: Mapped[str] = mapped_column(String(40))
    size: Mapped[int] = mapped_column(BigInteger)


class Project(Base):
    """A queue with its own rules and people. Projects are closed, never deleted: items and records name them."""

    __tablename__ = "project"

    name: Mapped[str] = mapped_column(String(40), primary_key=True)
    settings: Mapped[JsonObject]
    """Of a ProjectConfig, those that differ from its defaults."""
    active: Mapped[bool] = mapped_column(default=True)
    """Whether its items are asked."""
    created: Mapped[datetime]


class ProjectPerson(Base):
    """The role of an account in a project."""

    __tablename__ = "project_person"

    project: Mapped[str] = mapped_column(ForeignKey("project.name"), primary_key=True)
    annotator_id: Mapped[str] = mapped_column(ForeignKey("annotator.id"), primary_key=True, index=True)
    role: Mapped[str] = mapped_column(String(16))


class ProjectGroup(Base):
    """The role of a group in a project."""

    __tablename__ = "project_group"

    project: Mapped[str] = mapped_column(ForeignKey("project.name"), primary_key=True)
    group_name: Mapped[str] = mapped_column(String(40), primary_key=True)
    role: Mapped[str] = mapped_column(String(16))


class GroupMember(Base):
    """An account is in a group. A group is there while somebody is in it."""

    __tablename__ = "group_member"

    group_name: Mapped[str] = mapped_column(String(40), primary_key=True)
    annotator_id: Mapped[str] = mapped_column(ForeignKey("annotator.id"), primary_key=True, index=True)


class Item(Base):
    """One question about the responses to one prompt."""

    __tablename__ = "item"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    project: Mapped[str] = mapped_column(ForeignKey("project.name"), server_default=DEFAULT_PROJECT, index=True)
    assigned_person: Mapped[str | None] = mapped_column(ForeignKey("annotator.id"))
    """Only this account is asked; at most one of this and the next is set."""
    assigned_group: Mapped[str | None] = mapped_column(String(40))
    """Only members of this group are asked."""
    prompt_id: Mapped[str] = mapped_column(String(200), index=True)
    messages: Mapped[list[JsonObject]]
    """Chat messages as in the PROMPT table."""
    media_ids: Mapped[list[str]]
    task: Mapped[str]
    modality: Mapped[str] = mapped_column(String(16))
    extras: Mapped[JsonObject]
    """Ground truth and the like: never shown to annotators."""
    responses: Mapped[list[JsonObject]]
    """[{"text": …, "source": …}]"""
    question: Mapped[str] = mapped_column(String(16))
    overlap: Mapped[int]
    priority: Mapped[float] = mapped_column(default=0.0)
    """Higher is asked first."""
    position: Mapped[int] = mapped_column(BigInteger)
    """Order of arrival, which decides between equal priorities."""
    round: Mapped[int] = mapped_column(default=0)
    gold: Mapped[JsonObject | None] = mapped_column(JSON(none_as_null=True))
    """The known answer, in terms of `responses` as stored; None = not known."""
    votes: Mapped[int] = mapped_column(default=0)
    """Votes in force, kept with the votes in one transaction, so that open items are found by an index."""
    created: Mapped[datetime]

    __table_args__ = (
        Index(
            "item_open",
            "project",
            text("priority DESC"),
            "position",
            sqlite_where=text("votes < overlap"),
            postgresql_where=text("votes < overlap"),
        ),
    )


class Suggestion(Base):
    """The answer that a model would give to an item, in terms of the responses as stored. Never a vote."""

    __tablename__ = "suggestion"

    item_id: Mapped[str] = mapped_column(ForeignKey("item.id"), primary_key=True)
    source: Mapped[str]
    """Whose it is, e.g. a reward model's."""
    answer: Mapped[JsonObject]
    created: Mapped[datetime]


class SuggestionSeen(Base):
    """Somebody was shown an item's suggestion."""

    __tablename__ = "suggestion_seen"

    item_id: Mapped[str] = mapped_column(ForeignKey("item.id"), primary_key=True)
    annotator_id: Mapped[str] = mapped_column(ForeignKey("annotator.id"), primary_key=True, index=True)
    at: Mapped[datetime]


class Lease(Base):
    """An item held for an annotator, and the order in which the responses are shown to that annotator."""

    __tablename__ = "lease"

    item_id: Mapped[str] = mapped_column(ForeignKey("item.id"), primary_key=True)
    annotator_id: Mapped[str] = mapped_column(ForeignKey("annotator.id"), primary_key=True, index=True)
    order_shown: Mapped[list[int]]
    expires: Mapped[datetime]


class Vote(Base):
    """An answer, in terms of the responses as shown."""

    __tablename__ = "vote"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    """UUID chosen by the client, so that a vote that is sent twice counts once."""
    item_id: Mapped[str] = mapped_column(ForeignKey("item.id"), index=True)
    annotator_id: Mapped[str] = mapped_column(ForeignKey("annotator.id"))
    question: Mapped[str] = mapped_column(String(16))
    answer: Mapped[JsonObject]
    order_shown: Mapped[list[int]]
    milliseconds: Mapped[int] = mapped_column(BigInteger)
    created: Mapped[datetime] = mapped_column(index=True)
    undone: Mapped[bool] = mapped_column(default=False)

    __table_args__ = (
        Index(
            "vote_in_force",
            "item_id",
            "annotator_id",
            unique=True,
            sqlite_where=text("undone = 0"),
            postgresql_where=text("NOT undone"),
        ),
        Index("vote_by_annotator", "annotator_id", "created"),
    )


class Skip(Base):
    """An item that an annotator does not want to answer."""

    __tablename__ = "skip"

    item_id: Mapped[str] = mapped_column(ForeignKey("item.id"), primary_key=True)
    annotator_id: Mapped[str] = mapped_column(ForeignKey("annotator.id"), primary_key=True)
    reason: Mapped[str] = mapped_column(String(40))
    comment: Mapped[str]
    created: Mapped[datetime]


class Review(Base):
    """A reviewer's decision about an item on which annotators disagree; it outweighs their votes."""

    __tablename__ = "review"

    item_id: Mapped[str] = mapped_column(ForeignKey("item.id"), primary_key=True)
    reviewer_id: Mapped[str] = mapped_column(ForeignKey("annotator.id"), index=True)
    question: Mapped[str] = mapped_column(String(16))
    answer: Mapped[JsonObject]
    order_shown: Mapped[list[int]]
    milliseconds: Mapped[int] = mapped_column(BigInteger, default=0)
    created: Mapped[datetime]


class LoggedResponse(Base):
    """A response of a deployed model, reported by its application."""

    __tablename__ = "logged_response"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    prompt_id: Mapped[str] = mapped_column(String(200))
    messages: Mapped[list[JsonObject]]
    media_ids: Mapped[list[str]]
    task: Mapped[str]
    modality: Mapped[str] = mapped_column(String(16))
    extras: Mapped[JsonObject]
    text: Mapped[str]
    source: Mapped[str]
    created: Mapped[datetime] = mapped_column(index=True)


class Event(Base):
    """Something somebody did with a logged response."""

    __tablename__ = "event"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    """Chosen by the client, so that an event that is sent twice counts once."""
    response_id: Mapped[str] = mapped_column(ForeignKey("logged_response.id"), index=True)
    kind: Mapped[str] = mapped_column(String(24))
    value: Mapped[JsonObject]
    """Details that the kind needs: {"text": …} of an edit, {"seconds": …} of dwelling; else {}."""
    created: Mapped[datetime] = mapped_column(index=True)


class ArenaBattle(Base):
    """Two models' answers to what somebody asked. With the vote they become an item of the same id."""

    __tablename__ = "arena_battle"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    """A UUID, which is the vote's as well: a battle has one vote."""
    annotator_id: Mapped[str] = mapped_column(ForeignKey("annotator.id"), index=True)
    """Who asked, and may vote."""
    messages: Mapped[list[JsonObject]]
    media_ids: Mapped[list[str]]
    responses: Mapped[list[JsonObject]]
    """[{"text": …, "source": the model's name}]"""
    order_shown: Mapped[list[int]]
    voted: Mapped[bool] = mapped_column(default=False)
    created: Mapped[datetime] = mapped_column(index=True)


class OutMessage(Base):
    """Something that happened and is to be told to the webhook; the row goes when it has arrived."""

    __tablename__ = "out_message"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    event: Mapped[str] = mapped_column(String(40))
    body: Mapped[JsonObject]
    created: Mapped[datetime]
    due: Mapped[datetime] = mapped_column(index=True)
    """When it is to be tried; a time ahead while somebody tries it, and after a failure."""
    attempts: Mapped[int]


class Audit(Base):
    """Who did what that matters for trust. Rows only come, save that erasing a person clears `detail`."""

    __tablename__ = "audit"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    at: Mapped[datetime]
    actor: Mapped[str] = mapped_column(String(64))
    """annotator_id, or "command" for what was done on the server's own machine, or "" where nobody is known."""
    action: Mapped[str] = mapped_column(String(40))
    target: Mapped[str] = mapped_column(String(200))
    detail: Mapped[str]

    __table_args__ = (Index("audit_action", "action", "at"),)


COMMAND = "command"
"""Actor of what is done by `mmrlhf feedback` on the server's own machine."""


def note(session: Session, now: datetime, actor: str, action: str, target: str = "", detail: str = "") -> None:
    """Add a row to the audit log. `detail` holds no names or texts of people: it stays when their data are erased."""
    session.add(Audit(at=now, actor=actor, action=action, target=target[:200], detail=detail))
