"""A migration runs while the version before serves: it only adds, and holds nobody up for long."""

import re
import threading
import time

import pytest
from sqlalchemy import Engine, event, text

from sql.engine import check_schema, migrate, open_engine, write
from sql.errors import StoreBusy

ADDS = (
    r"CREATE TABLE (\w+)",
    r"ALTER TABLE \w+ ADD COLUMN \w+ (?!.*\bNOT NULL\b).*",
    # A default that is a constant rewrites nothing (Postgres 11 and later).
    r"ALTER TABLE \w+ ADD COLUMN \w+ .*DEFAULT '[^']*' NOT NULL",
    r"(INSERT INTO|UPDATE) alembic_version .*",
)
FIRST_OF_THE_RULE = "0001"
MOST_WAIT_S = 3.0


@pytest.fixture(params=["postgres"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_every_migration_after_the_first_only_adds(empty_url: str) -> None:
    engine = open_engine(empty_url)
    migrate(engine, FIRST_OF_THE_RULE)
    said: list[str] = []

    @event.listens_for(engine, "before_cursor_execute")
    def _hear(_c: object, _cursor: object, statement: str, *_: object) -> None:
        said.append(" ".join(statement.split()))

    migrate(engine)
    changes = [s for s in said if re.match(r"(CREATE|ALTER|DROP|INSERT|UPDATE|DELETE|TRUNC)", s)]
    assert len(changes) > 5
    made: set[str] = set()
    for statement in changes:
        made |= set(re.findall(r"^CREATE TABLE (\w+)", statement))
        index = re.match(r"CREATE (?:UNIQUE )?INDEX \w+ ON (\w+)", statement)
        # An index on a table that has rows holds up its writers while it is built.
        added = index[1] in made if index else any(re.match(rule, statement) for rule in ADDS)
        assert added, statement
    engine.dispose()


def test_a_table_that_is_held_is_asked_for_again_and_nobody_waits_long(empty_url: str) -> None:
    engine = open_engine(empty_url)
    migrate(engine, FIRST_OF_THE_RULE)
    longest_s = 0.0
    over = threading.Event()

    def serve() -> None:
        nonlocal longest_s
        while not over.is_set():
            began_s = time.monotonic()
            with engine.connect() as conn:
                conn.execute(text("SELECT count(*) FROM users"))
            longest_s = max(longest_s, time.monotonic() - began_s)
            over.wait(0.02)

    pauses: list[float] = []

    def release_after_two(_pause_s: float) -> None:
        pauses.append(_pause_s)
        if len(pauses) == 2:
            holder.rollback()

    holder = engine.connect()
    holder.execute(text("SELECT count(*) FROM users"))  # a long report: it holds the table
    reader = threading.Thread(target=serve)
    reader.start()
    try:
        migrate(engine, sleep=release_after_two)
    finally:
        over.set()
        reader.join()
        holder.close()
    assert len(pauses) == 2
    assert longest_s < MOST_WAIT_S
    check_schema(engine)
    engine.dispose()


def test_a_table_that_is_never_free_leaves_the_schema_as_it_was(
    empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sql.schema.LOCK_TRIES", 2)
    engine = open_engine(empty_url)
    migrate(engine, FIRST_OF_THE_RULE)
    with engine.connect() as holder:
        holder.execute(text("SELECT count(*) FROM users"))
        with pytest.raises(StoreBusy):
            migrate(engine, sleep=lambda _: None)
        assert _revision(engine) == FIRST_OF_THE_RULE
    engine.dispose()


def test_the_version_before_starts_after_a_newer_migration(engine: Engine) -> None:
    with write(engine) as conn:
        conn.execute(text("UPDATE alembic_version SET version_num = '9000'"))
    check_schema(engine)


def _revision(engine: Engine) -> str:
    with engine.connect() as conn:
        return str(conn.execute(text("SELECT version_num FROM alembic_version")).scalar())


def test_the_version_before_leaves_a_newer_schema_alone(
    empty_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    engine = open_engine(empty_url)
    migrate(engine)
    with write(engine) as conn:
        conn.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    migrate(engine)  # what `moonlark init` does
    check_schema(engine)
    assert "9999 is newer" in caplog.text
    with write(engine) as conn:
        assert conn.execute(text("SELECT version_num FROM alembic_version")).scalar() == "9999"
    engine.dispose()
