"""Opening, migrating and checking: unsafe durability, an old schema, two migrations at once."""

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, inspect, text
from sqlalchemy.engine import make_url

from sql.engine import (
    check_schema,
    check_sqlite,
    migrate,
    open_engine,
    read_snapshot,
    write,
)
from sql.errors import SchemaBehind, StoreUnavailable, UnsafeDatabase
from sql.tables import metadata
from tests.contract.postgres_server import postgres_server
from tests.contract.store_builder import key_of, post, put, view

PROCESSES = 4


# -- durability -----------------------------------------------------------------------------------


def test_sqlite_is_opened_safe_on_every_connection(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'new folder' / 'moonlark.db'}")
    with engine.connect() as first, engine.connect() as second:
        for conn in (first, second):
            values = [
                conn.exec_driver_sql(f"PRAGMA {name}").scalar()
                for name in ("synchronous", "journal_mode", "foreign_keys", "busy_timeout")
            ]
            assert values == [2, "wal", 1, 30_000]
    engine.dispose()


@pytest.mark.parametrize(
    ("setting", "value"),
    [("synchronous", "NORMAL"), ("synchronous", "OFF"), ("journal_mode", "DELETE"), ("foreign_keys", "OFF")],
)
def test_unsafe_sqlite_is_refused(tmp_path: Path, setting: str, value: str) -> None:
    connection = sqlite3.connect(tmp_path / "moonlark.db", isolation_level=None)
    for name, safe in (("journal_mode", "WAL"), ("synchronous", "FULL"), ("foreign_keys", "ON")):
        connection.execute(f"PRAGMA {name} = {safe}")
    check_sqlite(connection.cursor(), "db")
    connection.execute(f"PRAGMA {setting} = {value}")
    with pytest.raises(UnsafeDatabase) as refused:
        check_sqlite(connection.cursor(), "db")
    assert refused.value.setting == setting
    connection.close()


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_sqlite_in_memory_is_refused(url: str) -> None:
    with pytest.raises(UnsafeDatabase):
        open_engine(url)


def test_postgres_without_synchronous_commit_is_refused(postgres_url: str, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue("postgres_database_url")
    name = make_url(url).database
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} SET synchronous_commit = off".encode())
    with pytest.raises(UnsafeDatabase) as refused:
        open_engine(url)
    assert refused.value.setting == "synchronous_commit"


@pytest.fixture
def postgres_database_url(postgres_url: str) -> Iterator[str]:
    """An empty database whose settings the test may change."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(b"CREATE DATABASE mlk_unsafe")
        try:
            yield make_url(postgres_url).set(database="mlk_unsafe").render_as_string(
                hide_password=False
            )
        finally:
            connection.execute(b"DROP DATABASE mlk_unsafe WITH (FORCE)")


def test_postgres_without_fsync_is_refused() -> None:
    with postgres_server("fsync=off") as url, pytest.raises(UnsafeDatabase) as refused:
        open_engine(url)
    assert refused.value.setting == "fsync"


def test_other_databases_and_absent_servers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="neither sqlite nor postgresql"):
        open_engine("mysql://u@h/d")
    with pytest.raises(StoreUnavailable):
        open_engine(f"postgresql://u@/d?host={tmp_path}")


# -- schema ---------------------------------------------------------------------------------------


def test_schema_behind_is_named_with_the_command(empty_database_url: str) -> None:
    engine = open_engine(empty_database_url)
    with pytest.raises(SchemaBehind) as behind:
        check_schema(engine)
    assert behind.value.actual is None
    assert "moonlark init" in behind.value.hint
    migrate(engine)
    migrate(engine)
    check_schema(engine)
    with write(engine) as conn:
        conn.execute(text("UPDATE alembic_version SET version_num = '0000'"))
    with pytest.raises(SchemaBehind) as behind:
        check_schema(engine)
    assert behind.value.actual == "0000"
    engine.dispose()


def test_migrated_schema_is_the_metadata(engine: Engine) -> None:
    with read_snapshot(engine) as conn:
        context = MigrationContext.configure(conn, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_migrated_schema_has_what_alembic_does_not_compare(
    engine: Engine, empty_database_url: str
) -> None:
    """Primary keys, checks, collations, ON DELETE: against a schema made from the metadata."""
    made = open_engine(empty_database_url)
    if made.dialect.name != engine.dialect.name:
        made.dispose()
        return  # the pairs of one database each are compared
    with write(made) as conn:
        metadata.create_all(conn)
    ours, theirs = inspect(engine), inspect(made)
    for table in metadata.sorted_tables:
        name = table.name
        assert ours.get_pk_constraint(name) == theirs.get_pk_constraint(name)
        for read in ("get_check_constraints", "get_foreign_keys", "get_indexes"):
            assert by_name(getattr(ours, read)(name)) == by_name(getattr(theirs, read)(name))
        columns = [
            [(c["name"], str(c["type"]), getattr(c["type"], "collation", None), c["nullable"]) for c in i.get_columns(name)]
            for i in (ours, theirs)
        ]
        assert columns[0] == columns[1]
    made.dispose()


def by_name(found: list[dict[str, object]]) -> list[dict[str, object]]:
    return sorted(found, key=lambda row: str(row["name"]))


def test_processes_that_migrate_at_once_all_succeed(empty_database_url: str) -> None:
    script = str(Path(__file__).with_name("store_process.py"))
    processes = [
        subprocess.Popen(
            [sys.executable, script, "migrate", empty_database_url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(PROCESSES)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        ends = [process.communicate(timeout=60) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [json.loads(out) if out else error for out, error in ends] == ["migrated"] * PROCESSES


# -- transactions ---------------------------------------------------------------------------------


def test_read_snapshot_is_of_one_moment_and_cannot_write(engine: Engine) -> None:
    put(engine, "i1")
    post(engine, [view("a")])
    count = text("SELECT count(*) FROM events")
    with read_snapshot(engine) as conn:
        assert conn.execute(count).scalar() == 1
        post(engine, [view("b")])
        assert conn.execute(count).scalar() == 1
    with read_snapshot(engine) as conn:
        assert conn.execute(count).scalar() == 2


def test_write_is_rolled_back_when_its_block_raises(engine: Engine) -> None:
    put(engine, "i1")
    post(engine, [view("a")])
    with pytest.raises(RuntimeError), write(engine) as conn:
        conn.execute(text("DELETE FROM users"))
        raise RuntimeError
    assert key_of(engine)
    post(engine, [view("b")])
