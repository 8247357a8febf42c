"""Projects, groups, and items that are somebody's to answer. What there was becomes the project `default`."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """All items go into the project `default`, which is open to every account, as they were."""
    project = op.create_table(
        "project",
        sa.Column("name", sa.String(40), primary_key=True),
        sa.Column("settings", sa.JSON(), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
    )
    first = {"name": "default", "settings": {}, "active": True}
    op.execute(sa.insert(project).values(**first, created=sa.func.now()))
    _roles()
    # SQLite adds a column that refers to another table only in a statement of its own.
    op.execute("ALTER TABLE item ADD COLUMN project VARCHAR(40) DEFAULT 'default' NOT NULL REFERENCES project (name)")
    op.execute("ALTER TABLE item ADD COLUMN assigned_person VARCHAR(32) REFERENCES annotator (id)")
    op.add_column("item", sa.Column("assigned_group", sa.String(40)))
    op.create_index("ix_item_project", "item", ["project"])
    op.drop_index("item_open", "item")
    room = sa.text("votes < overlap")
    order: list[str | sa.TextClause] = ["project", sa.text("priority DESC"), "position"]
    op.create_index("item_open", "item", [*order], sqlite_where=room, postgresql_where=room)


def _roles() -> None:
    person = sa.Column("annotator_id", sa.String(32), sa.ForeignKey("annotator.id"), primary_key=True)
    op.create_table(
        "project_person",
        sa.Column("project", sa.String(40), sa.ForeignKey("project.name"), primary_key=True),
        person.copy(),
        sa.Column("role", sa.String(16), nullable=False),
    )
    op.create_index("ix_project_person_annotator_id", "project_person", ["annotator_id"])
    op.create_table(
        "project_group",
        sa.Column("project", sa.String(40), sa.ForeignKey("project.name"), primary_key=True),
        sa.Column("group_name", sa.String(40), primary_key=True),
        sa.Column("role", sa.String(16), nullable=False),
    )
    op.create_table("group_member", sa.Column("group_name", sa.String(40), primary_key=True), person.copy())
    op.create_index("ix_group_member_annotator_id", "group_member", ["annotator_id"])
