"""Every contract test runs on both databases: `engine` is a fresh, migrated database of a test.

Postgres is never skipped: where no server can be started, its tests fail.
`MOONLARK_TEST_POSTGRES_URL` names a server to be used instead (a role that may create databases).
"""

import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Engine
from sqlalchemy.engine import make_url

from sql.engine import migrate, open_engine
from tests.contract.postgres_server import postgres_server


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A server, one a session."""
    if given := os.environ.get("MOONLARK_TEST_POSTGRES_URL"):
        yield given
        return
    with postgres_server() as url:
        yield url


@pytest.fixture(scope="session")
def postgres_template(postgres_url: str) -> Iterator[str]:
    """The name of a migrated database, to be cloned."""
    with _database(postgres_url) as name:
        _migrate(_with_database(postgres_url, name))
        yield name


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated file, to be copied."""
    path = tmp_path_factory.mktemp("template") / "moonlark.db"
    _migrate(f"sqlite:///{path}")
    return path


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A fresh, migrated database."""
    if request.param == "sqlite":
        template = request.getfixturevalue("sqlite_template")
        yield f"sqlite:///{shutil.copy(template, tmp_path / 'moonlark.db')}"
        return
    server = request.getfixturevalue("postgres_url")
    with _database(server, request.getfixturevalue("postgres_template")) as name:
        yield _with_database(server, name)


@pytest.fixture(params=["sqlite", "postgres"])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database without a schema."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'moonlark.db'}"
        return
    server = request.getfixturevalue("postgres_url")
    with _database(server) as name:
        yield _with_database(server, name)


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """Opened as production opens it."""
    engine = open_engine(database_url)
    yield engine
    engine.dispose()


def _migrate(url: str) -> None:
    engine = open_engine(url)
    migrate(engine)
    engine.dispose()


def _with_database(url: str, name: str) -> str:
    return make_url(url).set(database=name).render_as_string(hide_password=False)


class _database:
    """A Postgres database that lives as long as the block."""

    def __init__(self, server: str, template: str = "template1") -> None:
        self._server, self._template = server, template
        self._name = f"mlk_{uuid.uuid4().hex[:12]}"

    def __enter__(self) -> str:
        self._run(f"CREATE DATABASE {self._name} TEMPLATE {self._template}")
        return self._name

    def __exit__(self, *_: object) -> None:
        self._run(f"DROP DATABASE {self._name} WITH (FORCE)")

    def _run(self, statement: str) -> None:
        with psycopg.connect(self._server, autocommit=True) as connection:
            connection.execute(statement.encode())
