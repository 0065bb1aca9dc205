"""Each role of infra/postgres/roles.sql can do what it is for on a real Postgres, and no more."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import psycopg
import pytest
from sqlalchemy import Engine, text
from typer.testing import CliRunner

from infra import runbooks
from infra.cli.main import app
from infra.drills.victims import wait_for
from infra.stack.postgres import PostgresServer, connect, create_database
from sql.engine import check_schema, migrate, open_engine, read_snapshot, write
from sql.erasure import erase_user
from sql.erasure_bytes import purge_bytes
from sql.erasure_ledger import Ledger
from sql.errors import StoreUnavailable
from sql.events import find_user
from sql.locks import end_idle_holders
from sql.retention import retain
from sql.settings import RetentionSettings
from sql.tables import metadata
from tests.contract.store_builder import NOW_MS, generation, post, put, view

SCRIPTS = Path(__file__).parents[2] / "infra" / "postgres"
LOCK_RUNBOOKS = ("ErrorsHigh", "EventsNotStored", "EventsSlow", "ListsSlow", "WriteBehindDropping")
RIGHTS = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER")
READER_TABLES = {
    *("generations", "artifacts", "live", "replicas"),
    *("items", "catalog_head", "item_activity", "policies"),
}
PASSWORD = 'it\'s a "secret"'


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    made = PostgresServer()
    made.start()
    try:
        create_database(made.url(), "moonlark")
        made.run_script(SCRIPTS / "roles.sql", "moonlark")
        for name in ("owner", "writer", "oncall", "reader", "airflow"):
            secret = made.folder / f"pg_{name}"
            secret.write_text(PASSWORD)
            secret.chmod(0o644)
        made.run_script(SCRIPTS / "passwords.sql", "moonlark", f"-v secrets={made.folder}")
        engine = as_role(made, "moonlark_owner")
        migrate(engine)
        engine.dispose()
        made.run_script(SCRIPTS / "roles.sql", "moonlark")
        yield made
    finally:
        made.stop()


def as_role(server: PostgresServer, role: str, database: str = "moonlark") -> Engine:
    return open_engine(server.url(database, role))


def test_the_writer_does_what_replicas_the_night_and_the_command_line_do(
    server: PostgresServer, tmp_path: Path
) -> None:
    engine = as_role(server, "moonlark_writer")
    check_schema(engine)
    put(engine, "i1")
    post(engine, [view("e1")])
    generation(engine, "g1")
    retain(engine, RetentionSettings(), now_ms=NOW_MS + 1)
    erase_user(engine, Ledger.open(tmp_path / "root"), "u1", at_ms=NOW_MS + 1)
    with read_snapshot(engine) as conn:
        assert find_user(conn, "u1") is None
    engine.dispose()


def test_rights_are_these_and_no_others_on_every_table(server: PostgresServer) -> None:
    with connect(server.url("moonlark")) as conn:

        def rights(role: str, table: str) -> set[str]:
            asked = [
                (r, conn.execute("SELECT has_table_privilege(%s, %s, %s)", (role, table, r)))
                for r in RIGHTS
            ]
            return {right for right, answer in asked if answer.fetchone() == (True,)}

        for table in metadata.tables:
            assert rights("moonlark_writer", table) == {"SELECT", "INSERT", "UPDATE", "DELETE"}
            expected = {"SELECT"} if table in READER_TABLES else set()
            assert rights("moonlark_reader", table) == expected, table
            assert rights("airflow", table) == set()
        assert rights("moonlark_writer", "alembic_version") == {"SELECT"}


@pytest.mark.parametrize("role", ["moonlark_writer", "moonlark_oncall", "moonlark_reader"])
@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE x (n int)",
        "DROP TABLE events",
        "ALTER TABLE events ADD COLUMN n int",
        "TRUNCATE events CASCADE",
        "UPDATE alembic_version SET version_num = '0000'",
        "CREATE ROLE x",
        "CREATE DATABASE x",
        "SET ROLE moonlark_owner",
        "SELECT pg_read_file('/etc/passwd')",
        "COPY events TO PROGRAM 'cat'",
    ],
)
def test_who_serves_or_looks_cannot_change_the_schema_or_the_server(
    server: PostgresServer, role: str, statement: str
) -> None:
    with (
        connect(server.url("moonlark", role)) as conn,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        conn.execute(statement.encode())


def test_the_reader_sees_no_user_and_no_key(server: PostgresServer) -> None:
    engine = as_role(server, "moonlark_reader")
    with engine.connect() as conn:
        conn.execute(text("SELECT count(*) FROM generations"))
        conn.rollback()
        for table in (
            "users",
            "events",
            "text_vectors",
            "exposures",
            "sessions",
            "api_keys",
            "erasures",
        ):
            with pytest.raises(Exception, match="permission denied"):
                conn.execute(text(f"SELECT count(*) FROM {table}"))
            conn.rollback()
    engine.dispose()


@pytest.mark.parametrize(
    ("role", "database"), [("airflow", "moonlark"), ("moonlark_writer", "airflow")]
)
def test_airflow_and_moonlark_do_not_enter_each_other_s_database(
    server: PostgresServer, role: str, database: str
) -> None:
    with pytest.raises(StoreUnavailable, match="permission denied for database"):
        as_role(server, role, database)


def waits_for_a_lock(server: PostgresServer) -> bool:
    with connect(server.url("moonlark")) as admin:
        waiting = admin.execute("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
        return waiting.fetchone() is not None


@pytest.mark.parametrize("page", LOCK_RUNBOOKS)
def test_runbooks_of_locks_say_how_one_is_ended(page: str) -> None:
    assert runbooks.read(page).commands("Mitigation") == ["moonlark unlock"]


def test_the_on_call_ends_who_holds_a_lock_and_nobody_else(server: PostgresServer) -> None:
    url = server.url("moonlark", "moonlark_writer")
    oncall, reader = as_role(server, "moonlark_oncall"), as_role(server, "moonlark_reader")
    with (
        connect(url) as forgotten,
        connect(url) as harmless,
        ThreadPoolExecutor(1) as beside,
    ):
        forgotten.execute("BEGIN")
        forgotten.execute("LOCK TABLE events IN EXCLUSIVE MODE")
        harmless.execute("BEGIN")
        harmless.execute("SELECT count(*) FROM items")
        assert end_idle_holders(oncall, idle_s=0) == [], "it keeps nobody waiting yet"
        waiting = beside.submit(_writes_an_event, url)
        wait_for("somebody waits", lambda: waits_for_a_lock(server), 30.0)
        assert end_idle_holders(oncall, idle_s=60) == [], "it may be about to go on"
        with pytest.raises(ValueError, match=r"'moonlark_reader' may not see"):
            end_idle_holders(reader, idle_s=0)
        (ended,) = end_idle_holders(oncall, idle_s=0)
        assert (ended.role, ended.is_ended) == ("moonlark_writer", True)
        assert ended.statement == "LOCK TABLE events IN EXCLUSIVE MODE"
        waiting.result(timeout=30.0)
        with pytest.raises(psycopg.OperationalError):
            forgotten.execute("SELECT 1")
        harmless.execute("SELECT 1")
    oncall.dispose()
    reader.dispose()


def test_who_forgot_a_lock_on_a_table_is_ended_also_while_nobody_waits(
    server: PostgresServer,
) -> None:
    """Writers give up and come again: the on-call may look while none is there."""
    url = server.url("moonlark", "moonlark_writer")
    oncall = as_role(server, "moonlark_oncall")
    with connect(url) as forgotten, connect(url) as writes:
        forgotten.execute("BEGIN")
        forgotten.execute("LOCK TABLE exposures IN EXCLUSIVE MODE")
        writes.execute("BEGIN")
        writes.execute("LOCK TABLE events IN ROW EXCLUSIVE MODE")
        time.sleep(0.5)
        assert end_idle_holders(oncall, idle_s=0) == [], "that is too short"
        (ended,) = end_idle_holders(oncall, idle_s=0, forgotten_s=0.2)
        assert ended.idle_s >= 0.5
        with pytest.raises(psycopg.OperationalError):
            forgotten.execute("SELECT 1")
        writes.execute("SELECT 1")
    oncall.dispose()


def test_whom_the_on_call_may_not_end_is_named_and_the_others_are_ended(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOONLARK_DATABASE_URL", server.url("moonlark", "moonlark_oncall"))
    with (
        connect(server.url("moonlark")) as superuser,
        connect(server.url("moonlark", "moonlark_writer")) as forgotten,
        ThreadPoolExecutor(2) as beside,
    ):
        superuser.execute("BEGIN")
        superuser.execute("LOCK TABLE events IN EXCLUSIVE MODE")
        forgotten.execute("BEGIN")
        forgotten.execute("LOCK TABLE exposures IN EXCLUSIVE MODE")
        url = server.url("moonlark", "moonlark_writer")
        waiting = [beside.submit(_writes, url, table) for table in ("events", "exposures")]
        told = CliRunner().invoke(app, ["unlock", "--seconds", "3"])
        waiting[1].result(timeout=30.0)
        superuser.execute("COMMIT")
        waiting[0].result(timeout=30.0)
        with pytest.raises(psycopg.OperationalError):
            forgotten.execute("SELECT 1")
    assert told.exit_code == 1
    lines = told.output.splitlines()
    assert sorted(" ".join(line.split()[:2]) for line in lines) == [
        "ask who",
        "ended session",
        "not ended,",
    ], told.output
    assert "after LOCK TABLE exposures" in told.output


def test_a_lock_that_comes_and_goes_is_waited_for(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOONLARK_DATABASE_URL", server.url("moonlark", "moonlark_oncall"))
    quiet = CliRunner().invoke(app, ["unlock", "--seconds", "0"])
    assert quiet.exit_code == 0
    assert "nobody" in quiet.output
    url = server.url("moonlark", "moonlark_writer")
    with ThreadPoolExecutor(2) as beside:
        dreams, looking = beside.submit(_takes_a_lock_again_and_again, url), Event()
        writes = beside.submit(_writes_until, url, looking)
        told = CliRunner().invoke(app, ["unlock", "--seconds", "6"])
        looking.set()
        assert dreams.result(timeout=60.0), "the dreamer was ended"
        writes.result(timeout=60.0)
    assert told.exit_code == 0
    assert "ended session" in told.output


def test_who_reads_or_analyzes_is_left_alone(server: PostgresServer) -> None:
    """An export reads for minutes, with pauses: a migration that waits gives up by itself."""
    url, oncall = server.url("moonlark", "moonlark_owner"), as_role(server, "moonlark_oncall")
    with (
        connect(url) as reads,
        connect(server.url("moonlark")) as analyzes,
        ThreadPoolExecutor(1) as beside,
    ):
        reads.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        reads.execute("SELECT count(*) FROM events")
        analyzes.execute("BEGIN")
        analyzes.execute("LOCK TABLE items IN SHARE UPDATE EXCLUSIVE MODE")
        analyzes.execute("CREATE TEMP TABLE own (n int)")
        waiting = beside.submit(_migrates, url)
        wait_for("somebody waits", lambda: waits_for_a_lock(server), 30.0)
        assert end_idle_holders(oncall, idle_s=0, forgotten_s=0) == []
        reads.execute("COMMIT")
        analyzes.execute("ROLLBACK")
        waiting.result(timeout=30.0)
    oncall.dispose()


def _migrates(url: str) -> None:
    with connect(url) as conn:
        conn.execute("SET lock_timeout = '20s'")
        conn.execute("BEGIN")
        conn.execute("LOCK TABLE events IN ACCESS EXCLUSIVE MODE")


def test_sqlite_has_no_sessions_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOONLARK_DATABASE_URL", f"sqlite:///{tmp_path}/moonlark.db")
    told = CliRunner().invoke(app, ["unlock"])
    assert told.exit_code == 1
    assert "accepted: Postgres" in told.output
    assert not list(tmp_path.iterdir())


def _takes_a_lock_again_and_again(url: str) -> bool:
    """Whether its session was ended."""
    try:
        with connect(url) as conn:
            for _ in range(10):
                conn.execute("BEGIN")
                conn.execute("LOCK TABLE events IN EXCLUSIVE MODE")
                time.sleep(1.6)
                conn.execute("COMMIT")
                time.sleep(0.2)
    except psycopg.OperationalError:
        return True
    return False


def _writes_until(url: str, is_over: Event) -> None:
    while not is_over.wait(0.05):
        _writes_an_event(url)


def _writes_an_event(url: str) -> None:
    _writes(url, "events")


def _writes(url: str, table: str) -> None:
    with connect(url) as conn:
        conn.execute("SET lock_timeout = '20s'")  # or a test that fails would wait for its own end
        conn.execute("BEGIN")
        conn.execute(f"LOCK TABLE {table} IN ROW EXCLUSIVE MODE".encode())


def test_no_session_of_another_database_is_ended(server: PostgresServer) -> None:
    create_database(server.url(), "shop")
    url, admin = server.url("shop"), open_engine(server.url("moonlark"))
    with connect(url) as theirs:
        theirs.execute("CREATE TABLE events (n int)")
        theirs.execute("BEGIN")
        theirs.execute("LOCK TABLE events IN EXCLUSIVE MODE")
        with ThreadPoolExecutor(1) as beside:
            waiting = beside.submit(_writes_an_event, url)
            wait_for("somebody waits", lambda: waits_for_a_lock(server), 30.0)
            assert end_idle_holders(admin, idle_s=0) == []
            theirs.execute("COMMIT")
            waiting.result(timeout=30.0)


def test_a_table_of_a_later_migration_is_the_writer_s_and_not_the_reader_s(
    server: PostgresServer,
) -> None:
    owner, writer = as_role(server, "moonlark_owner"), as_role(server, "moonlark_writer")
    with write(owner) as conn:
        conn.execute(text("CREATE TABLE later (n int)"))
    with write(writer) as conn:
        conn.execute(text("INSERT INTO later VALUES (1)"))
    with connect(server.url("moonlark")) as admin:
        seen = admin.execute("SELECT has_table_privilege('moonlark_reader', 'later', 'SELECT')")
        assert seen.fetchone() == (False,)
        admin.execute("DROP TABLE later")
    owner.dispose()
    writer.dispose()


def test_a_purge_that_postgres_left_out_is_an_error_and_the_owner_s_is_not(
    server: PostgresServer,
) -> None:
    writer, owner = as_role(server, "moonlark_writer"), as_role(server, "moonlark_owner")
    with pytest.raises(StoreUnavailable, match=r"permission denied to vacuum.*owner of the tables"):
        purge_bytes(writer)
    assert purge_bytes(owner).startswith("VACUUM users")
    writer.dispose()
    owner.dispose()


def test_a_service_file_is_enough_to_connect(
    server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = tmp_path / "pg_service"
    service.write_text(
        f"[moonlark]\nhost={server.folder}\ndbname=moonlark\nuser=moonlark_writer\npassword=x\n"
    )
    monkeypatch.setenv("PGSERVICEFILE", str(service))
    engine = open_engine("postgresql+psycopg:///?service=moonlark")
    check_schema(engine)
    with read_snapshot(engine) as conn:
        assert conn.execute(text("SELECT current_user")).scalar() == "moonlark_writer"
    engine.dispose()


def test_passwords_are_the_files_to_the_letter(server: PostgresServer) -> None:
    hba = server.folder / "data" / "pg_hba.conf"
    was = hba.read_text()
    with connect(server.url()) as admin:
        try:
            hba.write_text("local all moonlark trust\nlocal all all scram-sha-256\n")
            admin.execute("SELECT pg_reload_conf()")
            url = f"dbname=moonlark host={server.folder} user=moonlark_writer"
            with pytest.raises(psycopg.OperationalError, match=r"password"):
                for _ in range(50):  # a reload is not waited for
                    psycopg.connect(url).close()
            psycopg.connect(url, password=PASSWORD).close()
        finally:
            hba.write_text(was)
            admin.execute("SELECT pg_reload_conf()")
