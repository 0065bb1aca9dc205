"""The schema that Alembic makes is the schema that the code means, and a bad database is refused."""

import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, Engine, inspect, text
from sqlalchemy.engine import make_url

from sql.engine import check_schema, migrate, open_engine, read_snapshot, write
from sql.errors import SchemaBehind, StoreBusy, UnsafeDatabase
from sql.tables import metadata
from tests.contract.postgres_server import PostgresServer, connect


def shape_of(conn: Connection) -> dict[str, object]:
    """All that the database knows of its tables, in its own words."""
    if conn.dialect.name == "sqlite":
        rows = conn.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")
        return {name: "".join(words.split()).replace('"', "") for name, words in rows}
    columns = conn.exec_driver_sql(
        "SELECT table_name, column_name, data_type, is_nullable, collation_name, column_default"
        " FROM information_schema.columns WHERE table_schema = 'public'"
    )
    constraints = conn.exec_driver_sql(
        "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE connamespace = 'public'::regnamespace"
    )
    indexes = conn.exec_driver_sql(
        "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'"
    )
    return {
        **{f"{row[0]}.{row[1]}": tuple(row) for row in columns},
        **{row[0]: row[1] for row in constraints},
        **{f"index {row[0]}": row[1] for row in indexes},
    }


def test_migrations_make_what_the_code_means(empty_url: str, engine: Engine) -> None:
    by_hand = open_engine(empty_url)
    with write(by_hand) as conn:
        metadata.create_all(conn)
        wanted = shape_of(conn)
    by_hand.dispose()
    with write(engine) as conn:
        assert compare_metadata(MigrationContext.configure(conn), metadata) == []
        made = shape_of(conn)
    made = {name: shape for name, shape in made.items() if "alembic" not in name}
    assert made == wanted


def test_an_empty_database_is_behind_until_it_is_migrated(empty_url: str) -> None:
    engine = open_engine(empty_url)
    with pytest.raises(SchemaBehind, match="moonlark init"):
        check_schema(engine)
    migrate(engine)
    migrate(engine)
    check_schema(engine)
    engine.dispose()


def _migrate(url: str, barrier: object) -> None:
    engine = open_engine(url)
    barrier.wait()  # type: ignore[attr-defined]
    migrate(engine)
    check_schema(engine)


def test_processes_that_migrate_at_once_do_it_once(empty_url: str) -> None:
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(3)
    workers = [spawn.Process(target=_migrate, args=(empty_url, barrier)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]


def test_a_failed_transaction_leaves_nothing(engine: Engine) -> None:
    with pytest.raises(RuntimeError), write(engine) as conn:
        conn.execute(text("UPDATE catalog_head SET change_seq = 7"))
        raise RuntimeError
    with read_snapshot(engine) as conn:
        assert conn.execute(text("SELECT change_seq FROM catalog_head")).scalar() == 0


def test_a_snapshot_is_of_one_moment(engine: Engine) -> None:
    read = text("SELECT change_seq FROM catalog_head")
    with read_snapshot(engine) as conn:
        before = conn.execute(read).scalar()
        with write(engine) as other:
            other.execute(text("UPDATE catalog_head SET change_seq = change_seq + 1"))
        assert conn.execute(read).scalar() == before
    with read_snapshot(engine) as conn:
        assert conn.execute(read).scalar() == 1


@pytest.fixture
def sqlite_engine(migrated_sqlite: Path) -> Iterator[Engine]:
    engine = open_engine(f"sqlite:///{migrated_sqlite}")
    yield engine
    engine.dispose()


def test_each_sqlite_connection_syncs_each_commit(sqlite_engine: Engine) -> None:
    for _ in range(3):
        with read_snapshot(sqlite_engine) as first, read_snapshot(sqlite_engine) as second:
            for conn in (first, second):
                assert conn.exec_driver_sql("PRAGMA synchronous").scalar() == 2
                assert conn.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
                assert conn.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1


def test_sqlite_in_memory_is_refused() -> None:
    for url in ("sqlite://", "sqlite:///:memory:"):
        with pytest.raises(UnsafeDatabase, match="in memory"):
            open_engine(url)


def test_an_unknown_database_is_refused() -> None:
    with pytest.raises(ValueError, match="mysql"):
        open_engine("mysql://localhost/moonlark")


def test_a_writer_that_waits_too_long_is_told_that_the_store_is_busy(
    migrated_sqlite: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sql.engine.LOCK_TIMEOUT_MS", 50)
    engine = open_engine(f"sqlite:///{migrated_sqlite}")
    with write(engine), pytest.raises(StoreBusy), write(engine):
        pass
    engine.dispose()


@pytest.mark.parametrize("backend", ["postgres"])
def test_postgres_that_acknowledges_before_it_syncs_is_refused(empty_url: str) -> None:
    name = make_url(empty_url).database
    with connect(empty_url) as connection:
        connection.execute(f'ALTER DATABASE "{name}" SET synchronous_commit = off')  # type: ignore[arg-type]
    with pytest.raises(UnsafeDatabase, match="synchronous_commit") as caught:
        open_engine(empty_url)
    assert caught.value.actual == "off"


def test_postgres_without_fsync_is_refused() -> None:
    server = PostgresServer("-c", "fsync=off")
    server.start()
    try:
        with pytest.raises(UnsafeDatabase, match="fsync"):
            open_engine(server.url())
    finally:
        server.stop()


def test_a_url_of_the_usual_kind_opens_postgres(postgres_url: str) -> None:
    engine = open_engine(postgres_url.replace("+psycopg", "", 1))
    assert engine.dialect.driver == "psycopg"
    assert inspect(engine).get_table_names() == []
    engine.dispose()
