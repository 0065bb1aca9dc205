"""The first schema: log, catalog, generations, requests.

Revision: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Frozen here: a later change of `sql.tables` must not change what this revision made.
ID = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Create everything."""
    _create_log()
    _create_catalog()
    _create_generations()
    _create_requests()


def _create_log() -> None:
    """Create what users did."""
    op.create_table(
        "users",
        sa.Column("user_id", ID, nullable=False),
        sa.Column("user_key", sa.BigInteger(), nullable=False),
        sa.Column("last_user_seq", sa.BigInteger(), nullable=False),
        sa.Column("day", sa.BigInteger(), nullable=False),
        sa.Column("day_count", sa.BigInteger(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("last_user_seq >= 0", name=op.f("ck_users_last_user_seq")),
        sa.PrimaryKeyConstraint("user_id", name=op.f("pk_users")),
        sa.UniqueConstraint("user_key", name=op.f("uq_users_user_key")),
    )
    op.create_table(
        "events",
        sa.Column("user_key", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("user_seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("event_id", ID, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("item_id", ID, nullable=True),
        sa.Column("ordinal", sa.BigInteger(), nullable=True),
        sa.Column("text_digest", sa.Text(), nullable=True),
        sa.Column("text", sa.Text(), nullable=True),
        sa.Column("value", sa.Double(), nullable=True),
        sa.Column("undoes_seq", sa.BigInteger(), nullable=True),
        sa.Column("occurred_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("received_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("surface", sa.Text(), nullable=True),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.CheckConstraint("undoes_seq < user_seq", name=op.f("ck_events_undoes_seq")),
        sa.CheckConstraint("user_seq >= 1", name=op.f("ck_events_user_seq")),
        sa.ForeignKeyConstraint(
            ["user_key"], ["users.user_key"], name=op.f("fk_events_user_key"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("user_key", "user_seq", name=op.f("pk_events")),
        sa.UniqueConstraint("user_key", "event_id", name=op.f("uq_events_user_key_event_id")),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "ix_events_ratings",
        "events",
        ["user_key", "item_id"],
        unique=False,
        sqlite_where=sa.text("kind = 'rating'"),
        postgresql_where=sa.text("kind = 'rating'"),
    )
    op.create_index(
        "ix_events_undoes",
        "events",
        ["user_key", "undoes_seq"],
        unique=True,
        sqlite_where=sa.text("undoes_seq IS NOT NULL"),
        postgresql_where=sa.text("undoes_seq IS NOT NULL"),
    )
    op.create_table(
        "text_vectors",
        sa.Column("user_key", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("user_seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("encoder_id", sa.Text(), nullable=False),
        sa.Column("vector", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["user_key", "user_seq"],
            ["events.user_key", "events.user_seq"],
            name=op.f("fk_text_vectors_user_key_user_seq"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("user_key", "user_seq", "encoder_id", name=op.f("pk_text_vectors")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "item_activity",
        sa.Column("hour", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("ordinal", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("slot", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("n", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("hour", "ordinal", "kind", "slot", name=op.f("pk_item_activity")),
        sqlite_with_rowid=False,
    )


def _create_catalog() -> None:
    """Create what exists."""
    op.create_table(
        "texts",
        sa.Column("text_digest", ID, nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("text_digest", name=op.f("pk_texts")),
    )
    op.create_table(
        "items",
        sa.Column("item_id", ID, nullable=False),
        sa.Column("ordinal", sa.BigInteger(), nullable=False),
        sa.Column("change_seq", sa.BigInteger(), nullable=False),
        sa.Column("deleted", sa.Boolean(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=True),
        sa.Column("body", sa.Text(), nullable=True),
        sa.Column("text_digest", ID, nullable=True),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["text_digest"], ["texts.text_digest"], name=op.f("fk_items_text_digest")
        ),
        sa.PrimaryKeyConstraint("item_id", name=op.f("pk_items")),
        sa.UniqueConstraint("ordinal", name=op.f("uq_items_ordinal")),
    )
    op.create_index("ix_items_text_digest", "items", ["text_digest"], unique=False)
    op.create_table(
        "item_vectors",
        sa.Column("encoder_id", sa.Text(), nullable=False),
        sa.Column("text_digest", ID, nullable=False),
        sa.Column("vector", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["text_digest"],
            ["texts.text_digest"],
            name=op.f("fk_item_vectors_text_digest"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("encoder_id", "text_digest", name=op.f("pk_item_vectors")),
    )
    op.create_index("ix_item_vectors_text_digest", "item_vectors", ["text_digest"], unique=False)
    op.create_table(
        "catalog_log",
        sa.Column("change_seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("op", sa.Text(), nullable=False),
        sa.Column("item_id", ID, nullable=False),
        sa.Column("ordinal", sa.BigInteger(), nullable=False),
        sa.Column("replaced_ordinal", sa.BigInteger(), nullable=True),
        sa.Column("version", sa.BigInteger(), nullable=True),
        sa.Column("body", sa.Text(), nullable=True),
        sa.Column("text_digest", sa.Text(), nullable=True),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("change_seq", name=op.f("pk_catalog_log")),
    )
    op.create_table(
        "catalog_head",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("change_seq", sa.BigInteger(), nullable=False),
        sa.Column("next_ordinal", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_catalog_head_one_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_catalog_head")),
    )
    op.execute("INSERT INTO catalog_head (id, change_seq, next_ordinal) VALUES (1, 0, 0)")


def _create_generations() -> None:
    """Create what the nights made, and what is live."""
    op.create_table(
        "generations",
        sa.Column("generation_id", ID, nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("encoder_id", sa.Text(), nullable=False),
        sa.Column("catalog_seq", sa.BigInteger(), nullable=False),
        sa.Column("event_count", sa.BigInteger(), nullable=False),
        sa.Column("user_count", sa.BigInteger(), nullable=False),
        sa.Column("metrics", sa.Text(), nullable=False),
        sa.Column("manifest_digest", sa.Text(), nullable=True),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("failed_reason", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "state IN ('building', 'sealed', 'staged', 'published', 'failed', 'pruned')",
            name=op.f("ck_generations_state"),
        ),
        sa.PrimaryKeyConstraint("generation_id", name=op.f("pk_generations")),
    )
    op.create_table(
        "artifacts",
        sa.Column("generation_id", ID, nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["generation_id"],
            ["generations.generation_id"],
            name=op.f("fk_artifacts_generation_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("generation_id", "path", name=op.f("pk_artifacts")),
    )
    op.create_table(
        "live",
        sa.Column("flip", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("generation_id", ID, nullable=False),
        sa.Column("previous", ID, nullable=True),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("hold", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["generation_id"], ["generations.generation_id"], name=op.f("fk_live_generation_id")
        ),
        sa.PrimaryKeyConstraint("flip", name=op.f("pk_live")),
    )
    op.create_table(
        "replicas",
        sa.Column("replica_id", sa.Text(), nullable=False),
        sa.Column("ready", sa.Text(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("replica_id", name=op.f("pk_replicas")),
    )
    op.create_table(
        "sessions",
        sa.Column("generation_id", ID, nullable=False),
        sa.Column("user_key", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("user_seq", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["user_key"], ["users.user_key"], name=op.f("fk_sessions_user_key"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("generation_id", "user_key", name=op.f("pk_sessions")),
    )
    op.create_index("ix_sessions_user_key", "sessions", ["user_key"], unique=False)


def _create_requests() -> None:
    """Create what was asked and shown."""
    op.create_table(
        "exposures",
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("user_key", sa.BigInteger(), autoincrement=False, nullable=True),
        sa.Column("generation_id", sa.Text(), nullable=False),
        sa.Column("user_seq", sa.BigInteger(), nullable=False),
        sa.Column("catalog_seq", sa.BigInteger(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("items", sa.Text(), nullable=False),
        sa.Column("degraded", sa.Text(), nullable=False),
        sa.Column("params", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["user_key"], ["users.user_key"], name=op.f("fk_exposures_user_key"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("request_id", name=op.f("pk_exposures")),
    )
    op.create_index("ix_exposures_at_ms", "exposures", ["at_ms"], unique=False)
    op.create_index("ix_exposures_user_key", "exposures", ["user_key"], unique=False)
    op.create_table(
        "api_keys",
        sa.Column("key_sha256", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("scopes", sa.Text(), nullable=False),
        sa.Column("limits", sa.Text(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("revoked_at_ms", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("key_sha256", name=op.f("pk_api_keys")),
    )
