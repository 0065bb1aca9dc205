"""The schema in the database: brought up to date by Alembic, checked at each start."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, text

from sql.errors import SchemaBehind
from sql.transactions import read_snapshot, shown, write

# Any constant will do; all processes that migrate one database must use the same.
_MIGRATION_LOCK = 0x6D6F6F6E


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    return config


def migrate(engine: Engine) -> None:
    """Bring the schema to the newest revision, in one transaction.

    Safe when several processes call it at once: the first holds the lock (SQLite's writer lock, an
    advisory lock on Postgres), the others wait and find nothing to do.
    """
    config = _config()
    with write(engine) as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:k)"), {"k": _MIGRATION_LOCK})
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def check_schema(engine: Engine) -> None:
    """Raise `SchemaBehind` unless the database is at the revision that this code needs."""
    expected = ScriptDirectory.from_config(_config()).get_current_head()
    with read_snapshot(engine) as connection:
        actual = MigrationContext.configure(connection).get_current_revision()
    if actual != expected:
        raise SchemaBehind(shown(engine), actual, expected)
