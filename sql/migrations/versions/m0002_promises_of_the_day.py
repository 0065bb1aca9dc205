"""The promises of the day: policies, erasure with a ledger, retention, ids that come back.

Revision: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

ID = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Add columns and two tables."""
    op.add_column("users", sa.Column("erased_before_ms", sa.BigInteger(), nullable=True))
    op.add_column(
        "users", sa.Column("trimmed_seq", sa.BigInteger(), server_default="0", nullable=False)
    )
    op.add_column(
        "sessions", sa.Column("trimmed_seq", sa.BigInteger(), server_default="0", nullable=False)
    )
    op.add_column("events", sa.Column("counted_hour", sa.BigInteger(), nullable=True))
    op.add_column("items", sa.Column("former_ordinals", sa.Text(), nullable=True))
    op.add_column(
        "catalog_head", sa.Column("policy_seq", sa.BigInteger(), server_default="0", nullable=False)
    )
    op.add_column("replicas", sa.Column("refused", sa.Text(), server_default="{}", nullable=False))
    op.create_table(
        "policies",
        sa.Column("policy_id", ID, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("policy_seq", sa.BigInteger(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("kind IN ('pin', 'boost', 'seen')", name=op.f("ck_policies_kind")),
        sa.PrimaryKeyConstraint("policy_id", name=op.f("pk_policies")),
    )
    op.create_table(
        "erasures",
        sa.Column("erasure_id", sa.Text(), nullable=False),
        sa.Column("user_hmac", ID, nullable=False),
        sa.Column("erased_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("completed_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("receipt", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("erasure_id", name=op.f("pk_erasures")),
    )
    op.create_index("ix_erasures_user_hmac", "erasures", ["user_hmac"], unique=False)
    op.create_index("ix_erasures_erased_at_ms", "erasures", ["erased_at_ms"], unique=False)
