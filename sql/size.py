"""How large the database is: what grows with the log, at the cost of a look at a few files."""

from sqlalchemy import Engine, text

from sql.transactions import read_snapshot

_SIZE = {
    "sqlite": text("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"),
    "postgresql": text("SELECT pg_database_size(current_database())"),
}


def database_size_bytes(engine: Engine) -> int:
    """Bytes of the database: tables and indexes, without the write-ahead log."""
    with read_snapshot(engine) as conn:
        size: int = conn.execute(_SIZE[engine.dialect.name]).scalar_one()
    return size
