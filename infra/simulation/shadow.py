"""A second record of what was committed, kept by triggers; nothing is ever erased from it.

Written in the transactions of the shipped code and known to none of it. `template` migrates an
empty database once; a seed works on a copy.
"""

from pathlib import Path

from sqlalchemy import text

from sql.engine import migrate, open_engine, write
from sql.tables import catalog_log, events

EVENT_COLUMNS = tuple(events.c.keys())
CHANGE_COLUMNS = tuple(catalog_log.c.keys())

ERASED = -1
"""`trimmed_at` of an event that went with its user, not by retention."""


def _copies(table: str, shadow: str, columns: tuple[str, ...]) -> list[str]:
    names, values = ", ".join(columns), ", ".join(f"NEW.{name}" for name in columns)
    return [
        f"CREATE TABLE {shadow} (place INTEGER PRIMARY KEY AUTOINCREMENT, {names})",
        f"CREATE TRIGGER {shadow}_insert AFTER INSERT ON {table} BEGIN "
        f"INSERT INTO {shadow} ({names}) VALUES ({values}); END",
    ]


STATEMENTS = [
    *_copies("events", "shadow_events", EVENT_COLUMNS),
    "ALTER TABLE shadow_events ADD COLUMN trimmed_at INTEGER",
    "ALTER TABLE shadow_events ADD COLUMN trimmed_place INTEGER",
    "CREATE TRIGGER shadow_events_delete AFTER DELETE ON events BEGIN "
    f"UPDATE shadow_events SET trimmed_at = {ERASED}, "
    "trimmed_place = (SELECT max(place) FROM shadow_events) "
    "WHERE user_key = OLD.user_key AND user_seq = OLD.user_seq; END",
    # Retention deletes first and raises `trimmed_seq` then, in one transaction.
    "CREATE TRIGGER shadow_events_trim AFTER UPDATE OF trimmed_seq ON users BEGIN "
    "UPDATE shadow_events SET trimmed_at = NEW.trimmed_seq "
    f"WHERE user_key = NEW.user_key AND trimmed_at = {ERASED}; END",
    "CREATE INDEX shadow_events_user ON shadow_events (user_key, user_seq)",
    *_copies("catalog_log", "shadow_changes", CHANGE_COLUMNS),
    "CREATE TABLE shadow_users (user_key INTEGER PRIMARY KEY, user_id TEXT, gone INTEGER)",
    "CREATE TRIGGER shadow_users_insert AFTER INSERT ON users BEGIN "
    "INSERT INTO shadow_users VALUES (NEW.user_key, NEW.user_id, 0); END",
    "CREATE TRIGGER shadow_users_delete AFTER DELETE ON users BEGIN "
    "UPDATE shadow_users SET gone = 1 WHERE user_key = OLD.user_key; END",
    "CREATE TABLE shadow_backward (generation_id TEXT, user_key INTEGER, old INTEGER, new INTEGER)",
    "CREATE TRIGGER shadow_sessions_update AFTER UPDATE ON sessions "
    "WHEN NEW.user_seq <= OLD.user_seq BEGIN INSERT INTO shadow_backward "
    "VALUES (NEW.generation_id, NEW.user_key, OLD.user_seq, NEW.user_seq); END",
]


def make_template(path: Path) -> None:
    """A migrated, empty database with the shadows, in one file that can be copied."""
    engine = open_engine(f"sqlite:///{path}")
    migrate(engine)
    with write(engine) as conn:
        for statement in STATEMENTS:
            conn.execute(text(statement))
    with engine.connect() as conn:
        conn.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        conn.rollback()
    engine.dispose()
