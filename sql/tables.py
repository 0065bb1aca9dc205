"""The schema. Every per-user row hangs on `users.user_key` and goes with it (ON DELETE CASCADE).

Times are int64 milliseconds since 1970 UTC (`_ms`). Ids compare by bytes on both databases
(SQLite's BINARY, Postgres's "C"), so that locks are taken in one order everywhere, and that a new
libc cannot change the order of an index. A change here needs a migration; a test holds the two
together.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.types import TypeEngine

NAMING = {
    "pk": "pk_%(table_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
}
metadata = MetaData(naming_convention=NAMING)


def id_type() -> TypeEngine[str]:
    """Text that compares by bytes. Also what a `batch_of` is joined with: its texts compare so, and
    Postgres uses an index for a comparison in the index's own collation only."""
    return Text().with_variant(Text(collation="C"), "postgresql")


def _user_key(*, primary_key: bool = False, nullable: bool = False) -> Column[int]:
    return Column(
        "user_key",
        BigInteger,
        ForeignKey("users.user_key", ondelete="CASCADE"),
        primary_key=primary_key,
        nullable=nullable,
        autoincrement=False,
    )


users = Table(
    "users",
    metadata,
    Column("user_id", id_type(), primary_key=True),
    Column("user_key", BigInteger, nullable=False, unique=True),
    Column("last_user_seq", BigInteger, nullable=False),
    # The daily limit is counted in the row that is locked and written anyway.
    Column("day", BigInteger, nullable=False),
    Column("day_count", BigInteger, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    # An erased id that came back: events that happened before this are 410 (late retries).
    Column("erased_before_ms", BigInteger),
    # At least the highest user_seq that retention took; it grows with each time that it took some,
    # so that a session folded before no longer holds.
    Column("trimmed_seq", BigInteger, nullable=False, server_default="0"),
    CheckConstraint("last_user_seq >= 0", name="last_user_seq"),
)

events = Table(
    "events",
    metadata,
    _user_key(primary_key=True),
    Column("user_seq", BigInteger, primary_key=True, autoincrement=False),
    Column("event_id", id_type(), nullable=False),
    Column("kind", Text, nullable=False),
    Column("item_id", id_type()),
    Column("ordinal", BigInteger),
    Column("text_digest", Text),
    Column("text", Text),
    Column("value", Double),
    Column("undoes_seq", BigInteger),
    Column("occurred_at_ms", BigInteger, nullable=False),
    Column("received_at_ms", BigInteger, nullable=False),
    Column("surface", Text),
    Column("request_id", Text),
    # The hour of `item_activity` in which it is counted; NULL: that of `received_at_ms`.
    Column("counted_hour", BigInteger),
    UniqueConstraint("user_key", "event_id"),
    CheckConstraint("user_seq >= 1", name="user_seq"),
    CheckConstraint("undoes_seq < user_seq", name="undoes_seq"),
    sqlite_with_rowid=False,
)
# Unique: an event is undone or superseded once. The log itself refuses a second undo.
Index(
    "ix_events_undoes",
    events.c.user_key,
    events.c.undoes_seq,
    unique=True,
    sqlite_where=text("undoes_seq IS NOT NULL"),
    postgresql_where=text("undoes_seq IS NOT NULL"),
)
Index(
    "ix_events_ratings",
    events.c.user_key,
    events.c.item_id,
    sqlite_where=text("kind = 'rating'"),
    postgresql_where=text("kind = 'rating'"),
)

text_vectors = Table(
    "text_vectors",
    metadata,
    Column("user_key", BigInteger, primary_key=True, autoincrement=False),
    Column("user_seq", BigInteger, primary_key=True, autoincrement=False),
    Column("encoder_id", Text, primary_key=True),
    Column("vector", LargeBinary, nullable=False),
    ForeignKeyConstraint(
        ["user_key", "user_seq"], ["events.user_key", "events.user_seq"], ondelete="CASCADE"
    ),
    sqlite_with_rowid=False,
)

texts = Table(
    "texts",
    metadata,
    Column("text_digest", id_type(), primary_key=True),
    Column("text", Text, nullable=False),
)

item_vectors = Table(
    "item_vectors",
    metadata,
    Column("encoder_id", Text, primary_key=True),
    Column(
        "text_digest",
        id_type(),
        ForeignKey("texts.text_digest", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("vector", LargeBinary, nullable=False),
    Index("ix_item_vectors_text_digest", "text_digest"),
)

items = Table(
    "items",
    metadata,
    Column("item_id", id_type(), primary_key=True),
    Column("ordinal", BigInteger, nullable=False, unique=True),
    Column("change_seq", BigInteger, nullable=False),
    Column("deleted", Boolean, nullable=False),
    Column("version", BigInteger),
    Column("body", Text),
    Column("text_digest", id_type(), ForeignKey("texts.text_digest")),
    Column("at_ms", BigInteger, nullable=False),
    # JSON list: the ordinals this id had before it was deleted and put again, newest last.
    Column("former_ordinals", Text),
    Index("ix_items_text_digest", "text_digest"),
)

catalog_log = Table(
    "catalog_log",
    metadata,
    Column("change_seq", BigInteger, primary_key=True, autoincrement=False),
    Column("op", Text, nullable=False),
    Column("item_id", id_type(), nullable=False),
    Column("ordinal", BigInteger, nullable=False),
    Column("replaced_ordinal", BigInteger),
    Column("version", BigInteger),
    Column("body", Text),
    Column("text_digest", Text),
    Column("at_ms", BigInteger, nullable=False),
)

# One row: the lock of the catalog's writers, and the last numbers they gave.
catalog_head = Table(
    "catalog_head",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("change_seq", BigInteger, nullable=False),
    Column("next_ordinal", BigInteger, nullable=False),
    # Last change of `policies`: in the row that each recommendation reads anyway.
    Column("policy_seq", BigInteger, nullable=False, server_default="0"),
    CheckConstraint("id = 1", name="one_row"),
)

# What editors decide: pins, boosts, and what counts as seen in a category.
policies = Table(
    "policies",
    metadata,
    Column("policy_id", id_type(), primary_key=True),
    Column("kind", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("policy_seq", BigInteger, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    CheckConstraint("kind IN ('pin', 'boost', 'seen')", name="kind"),
)

item_activity = Table(
    "item_activity",
    metadata,
    Column("hour", BigInteger, primary_key=True, autoincrement=False),
    Column("ordinal", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", Text, primary_key=True),
    Column("slot", BigInteger, primary_key=True, autoincrement=False),
    Column("n", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

sessions = Table(
    "sessions",
    metadata,
    Column("generation_id", id_type(), primary_key=True),
    _user_key(primary_key=True),
    Column("user_seq", BigInteger, nullable=False),
    Column("state", LargeBinary, nullable=False),
    # The user's `trimmed_seq` when it was folded.
    Column("trimmed_seq", BigInteger, nullable=False, server_default="0"),
    Index("ix_sessions_user_key", "user_key"),
)

generations = Table(
    "generations",
    metadata,
    Column("generation_id", id_type(), primary_key=True),
    Column("state", Text, nullable=False),
    Column("encoder_id", Text, nullable=False),
    Column("catalog_seq", BigInteger, nullable=False),
    Column("event_count", BigInteger, nullable=False),
    Column("user_count", BigInteger, nullable=False),
    Column("metrics", Text, nullable=False),
    Column("manifest_digest", Text),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("failed_reason", Text),
    CheckConstraint(
        "state IN ('building', 'sealed', 'staged', 'published', 'failed', 'pruned')", name="state"
    ),
)

artifacts = Table(
    "artifacts",
    metadata,
    Column(
        "generation_id",
        id_type(),
        ForeignKey("generations.generation_id", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("path", Text, primary_key=True),
    Column("sha256", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
)

# Append-only: the current pointer is the row with the highest flip.
live = Table(
    "live",
    metadata,
    Column("flip", BigInteger, primary_key=True, autoincrement=False),
    Column("generation_id", id_type(), ForeignKey("generations.generation_id"), nullable=False),
    Column("previous", id_type()),
    Column("who", Text, nullable=False),
    Column("why", Text, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("hold", Boolean, nullable=False),
)

replicas = Table(
    "replicas",
    metadata,
    Column("replica_id", Text, primary_key=True),
    Column("ready", Text, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    # JSON: the generations that would not load, and why.
    Column("refused", Text, server_default="{}", nullable=False),
)

exposures = Table(
    "exposures",
    metadata,
    Column("request_id", Text, primary_key=True),
    _user_key(nullable=True),
    Column("generation_id", Text, nullable=False),
    Column("user_seq", BigInteger, nullable=False),
    Column("catalog_seq", BigInteger, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("items", Text, nullable=False),
    Column("degraded", Text, nullable=False),
    Column("params", Text, nullable=False),
    Index("ix_exposures_user_key", "user_key"),
    Index("ix_exposures_at_ms", "at_ms"),
)

# Who was erased and when, without saying who: the ledger in the artifact root is its twin.
erasures = Table(
    "erasures",
    metadata,
    Column("erasure_id", Text, primary_key=True),
    Column("user_hmac", id_type(), nullable=False),
    Column("erased_at_ms", BigInteger, nullable=False),
    Column("completed_at_ms", BigInteger),
    Column("receipt", Text, nullable=False),
    Index("ix_erasures_user_hmac", "user_hmac"),
    Index("ix_erasures_erased_at_ms", "erased_at_ms"),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("key_sha256", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("scopes", Text, nullable=False),
    Column("limits", Text, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("revoked_at_ms", BigInteger),
)
