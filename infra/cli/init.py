"""`moonlark init`: the database at its newest schema, and the folders."""

import typer

from infra.cli.settings import CliSettings
from sql.engine import migrate, open_engine, shown
from sql.settings import StoreSettings


def command() -> None:
    """Make the database and the folders.

    Safe to run again: what exists is kept, an older schema is brought up to date. The database is
    a SQLite file unless MOONLARK_DATABASE_URL names a Postgres.
    """
    settings = StoreSettings()
    engine = open_engine(settings.database_url)
    migrate(engine)
    settings.artifact_root.mkdir(parents=True, exist_ok=True)
    CliSettings().state_dir.mkdir(parents=True, exist_ok=True)
    typer.echo(f"database   {shown(engine)}")
    typer.echo(f"artifacts  {settings.artifact_root}")
    typer.echo("next: moonlark ingest --dataset ml-100k")
    typer.echo("  or: moonlark ingest --items ITEMS.csv --events EVENTS.csv")
