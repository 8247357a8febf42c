"""The arena, and accounts of people whom an OpenID Connect provider knows."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Two tables beside those that were there."""
    op.create_table(
        "arena_battle",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("annotator_id", sa.String(32), sa.ForeignKey("annotator.id"), nullable=False),
        *(sa.Column(n, sa.JSON(), nullable=False) for n in ("messages", "media_ids", "responses", "order_shown")),
        sa.Column("voted", sa.Boolean(), nullable=False),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("ix_arena_battle_annotator_id", "arena_battle", ["annotator_id"])
    op.create_index("ix_arena_battle_created", "arena_battle", ["created"])
    op.create_table(
        "identity",
        sa.Column("issuer", sa.String(255), primary_key=True),
        sa.Column("subject", sa.String(255), primary_key=True),
        sa.Column("annotator_id", sa.String(32), sa.ForeignKey("annotator.id"), nullable=False),
    )
    op.create_index("ix_identity_annotator_id", "identity", ["annotator_id"])
