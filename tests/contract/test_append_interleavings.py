"""The recipe of the append holds under any interleaving of its statements: gapless, nothing twice,
no deadlock. Statement by statement on Postgres; process against process on both databases."""

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest

from infra.stack.postgres import create_database, drop_database
from sql.engine import open_engine
from tests.contract.conftest import database_of
from tests.contract.interleaver import interleave
from tests.contract.random_groups import ITEMS, Told, check, send
from tests.contract.store_builder import put

ROOT = Path(__file__).parents[2]
SEEDS = 12


@pytest.fixture
def postgres_database(postgres_url: str, migrated_postgres: str) -> Iterator[str]:
    """A migrated Postgres database, its URL: statements of SQLite writers cannot interleave."""
    name = f"moonlark_{uuid4().hex[:12]}"
    create_database(postgres_url, name, migrated_postgres)
    yield database_of(postgres_url, name)
    drop_database(postgres_url, name)


@pytest.mark.parametrize("writers", [2, 3])
def test_any_interleaving_of_statements_keeps_the_log_whole(
    postgres_database: str, writers: int
) -> None:
    engine = open_engine(postgres_database)
    put(engine, *ITEMS)
    waited, told = 0, []
    for seed in range(SEEDS):
        # The log goes on from seed to seed: users and shared ids are met new and met again.
        works = [partial(send, seed=seed // 3, writer=writer) for writer in range(writers)]
        answers, waits = interleave(engine, postgres_database, works, seed)
        waited += waits
        told += [answer for answered in answers for answer in answered]
        check(engine, told)
    assert waited > 0, "the writers never met: this test shows nothing"
    engine.dispose()


@pytest.mark.parametrize("seed", [1, 2])
def test_processes_with_random_groups_keep_the_log_whole(database_url: str, seed: int) -> None:
    engine = open_engine(database_url)
    put(engine, *ITEMS)
    command = [sys.executable, "-m", "tests.contract.random_groups", database_url, str(seed)]
    writers = [
        subprocess.Popen(
            [*command, str(writer)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for writer in range(3)
    ]
    try:
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
        for writer in writers:
            assert writer.stdin is not None
            writer.stdin.write("\n")
            writer.stdin.flush()
        answers = [json.loads(writer.communicate(timeout=60)[0]) for writer in writers]
        assert [writer.returncode for writer in writers] == [0] * len(writers)
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
    check(engine, [Told(*answer) for answered in answers for answer in answered])
    engine.dispose()
