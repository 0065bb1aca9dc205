"""infra/postgres/restore.md, its commands taken from the page and run on a real Postgres."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from infra.stack.postgres import PostgresServer, connect, create_database
from sql.engine import migrate, open_engine, read_snapshot
from sql.erasure import erase_user
from sql.erasure_ledger import Ledger
from sql.events import find_user
from tests.contract.store_builder import NOW_MS, log, post, put, view

PAGE = Path(__file__).parents[2] / "infra" / "postgres" / "restore.md"
ARCHIVE = (
    "mkdir -p ../wal && test ! -f ../wal/%f && cp %p ../wal/%f.tmp && mv ../wal/%f.tmp ../wal/%f"
)


def commands(step: str, who: str) -> str:
    """The commands of the page's block of that name."""
    text = PAGE.read_text(encoding="utf-8")
    (found,) = re.findall(rf"^```sh as={who} step={step}\n(.*?)^```$", text, re.M | re.S)
    return str(found)


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    made = PostgresServer("-c", "archive_mode=on", "-c", f"archive_command={ARCHIVE}")
    made.start()
    yield made
    made.shell(f"pg_ctl --pgdata={made.folder}/restored --mode=immediate stop")
    made.stop()


@pytest.mark.timeout(180)
def test_the_runbook_brings_back_the_moment_and_nobody_who_was_erased(
    server: PostgresServer, tmp_path: Path
) -> None:
    create_database(server.url(), "moonlark")
    with connect(server.url()) as admin:
        # What a server has in its own configuration; the restored one reads it.
        admin.execute(f"ALTER SYSTEM SET unix_socket_directories = '{server.folder}'".encode())
        admin.execute("ALTER SYSTEM SET listen_addresses = ''")
    engine = open_engine(server.url("moonlark"))
    migrate(engine)
    put(engine, "i1")
    post(engine, [view("e1"), view("f1", user_id="forgotten")])
    env = {name: str(server.folder / name.lower()) for name in ("BACKUP", "WAL", "RESTORED")}
    made = server.shell(commands("backup", "postgres"), env)
    assert made.returncode == 0, made.stderr

    post(engine, [view("e2")])
    with connect(server.url()) as admin:
        (moment,) = admin.execute("SELECT clock_timestamp()::text").fetchone() or ("",)
    ledger = Ledger.open(tmp_path / "root")
    erase_user(engine, ledger, "forgotten", at_ms=NOW_MS + 1_000)
    post(engine, [view("e3")])  # after the moment: shall be gone
    with connect(server.url()) as admin:
        admin.execute("SELECT pg_switch_wal()")
        _until_archived(admin)
    engine.dispose()
    server.kill()

    env["TARGET"] = str(moment)
    done = server.shell(commands("restore", "postgres"), env)
    assert done.returncode == 0, done.stderr + done.stdout
    engine = open_engine(server.url("moonlark"))
    _until_promoted(server, env)
    assert [e.event_id for e in log(engine)] == ["e1", "e2"]
    with read_snapshot(engine) as conn:
        assert (
            find_user(conn, "forgotten") is not None
        )  # the backup has the user: why the ledger is

    _moonlark(commands("erase", "moonlark"), server, tmp_path)
    with read_snapshot(engine) as conn:
        assert find_user(conn, "forgotten") is None
    assert [e.event_id for e in log(engine)] == ["e1", "e2"]
    engine.dispose()


def _until_archived(admin: psycopg.Connection[tuple[object, ...]]) -> None:
    for _ in range(200):
        row = admin.execute(
            "SELECT last_archived_wal >= pg_walfile_name(pg_current_wal_lsn() - 1), pg_sleep(0.05)"
            " FROM pg_stat_archiver"
        ).fetchone()
        if row is not None and row[0]:
            return
    raise AssertionError("the log was not archived")


def _until_promoted(server: PostgresServer, env: dict[str, str]) -> None:
    for _ in range(100):
        seen = server.shell(commands("look", "postgres"), env)
        assert seen.returncode == 0, seen.stderr
        if seen.stdout.strip() == "f":
            return
    raise AssertionError("it is still in recovery")


def _moonlark(script: str, server: PostgresServer, root: Path) -> None:
    done = subprocess.run(
        ["sh", "-eu", "-c", script],
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.defpath}",
            "MOONLARK_DATABASE_URL": server.url("moonlark"),
            "MOONLARK_ARTIFACT_ROOT": str(root / "root"),
            "MOONLARK_STATE_DIR": str(root / "state"),
        },
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert "erased again: 1 users" in done.stdout
