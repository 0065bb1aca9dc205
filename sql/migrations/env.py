"""Alembic's entry: runs the revisions on the connection that `sql.schema.migrate` opened."""

from alembic import context
from sqlalchemy import Connection

from sql.tables import metadata


def run() -> None:
    """Run within the caller's transaction, so that a failed migration leaves nothing behind."""
    connection: Connection = context.config.attributes["connection"]
    context.configure(connection=connection, target_metadata=metadata, transactional_ddl=True)
    with context.begin_transaction():
        context.run_migrations()


run()
