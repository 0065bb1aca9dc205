"""A store, and replicas of the shipped API on it, in this process and without Ray.

A replica is `serve.gateway.build_api` around `serve.day.Day`: what `serve.app` hands to Ray Serve,
routes, guard, group commit, generation watch and all. What is left out is the way there (HAProxy,
Serve's router), which the drills that kill processes go. So faults can be put into a replica's
files and database, and many rounds take seconds.
"""

import logging
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from fastapi import FastAPI
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from sqlalchemy import Engine

from infra.drills.catalog import ENCODER_ID, embed, fill_catalog
from infra.drills.generation import make_generation
from infra.drills.stack import now_ms
from ray_jobs.nightly.publish import stage_and_flip
from ray_jobs.nightly.settings import NightSettings
from serve.day import Day
from serve.gateway import build_api
from serve.settings import ServeSettings
from sql.engine import migrate, open_engine
from sql.settings import StoreSettings

WATCH_INTERVAL_S = 0.1


@dataclass(frozen=True)
class LocalStore:
    """A migrated database and an artifact root, in a folder that goes with it."""

    folder: Path
    database_url: str
    engine: Engine
    artifact_uri: str | None = None
    ledger_root: Path | None = None

    @property
    def root(self) -> Path:
        """The artifact root."""
        return self.folder / "artifacts"

    @property
    def settings(self) -> StoreSettings:
        """As a replica or a job is told it."""
        return StoreSettings(
            database_url=self.database_url,
            artifact_root=self.root,
            artifact_uri=self.artifact_uri,
            ledger_root=self.ledger_root,
        )

    def publish(self, generation_id: str, seed: int) -> None:
        """Make a generation of the catalog as it stands, and make it live."""
        make_generation(self.engine, self.root, generation_id, seed=seed, at_ms=now_ms())
        stage_and_flip(
            self.engine,
            generation_id,
            settings=NightSettings(),
            who="drill",
            why="drill",
            hold=False,
            now_ms=now_ms,
        )


@contextmanager
def local_store(*, items: int, seed: int, database_url: str | None = None) -> Iterator[LocalStore]:
    """A made-up catalog, no generation yet. `database_url`: an empty one; else a SQLite file."""
    folder = Path(tempfile.mkdtemp(prefix="moonlark-drill-"))
    url = database_url or f"sqlite:///{folder / 'moonlark.db'}"
    engine = open_engine(url)
    try:
        migrate(engine)
        (folder / "artifacts").mkdir()
        fill_catalog(engine, items, np.random.default_rng(seed), now_ms())
        yield LocalStore(folder, url, engine)
    finally:
        engine.dispose()
        shutil.rmtree(folder, ignore_errors=True)


def api_of(store: LocalStore) -> FastAPI:
    """A replica that is not started. `api.state.day` is its Day once it is."""
    settings = ServeSettings(http_host="127.0.0.1", watch_interval_s=WATCH_INTERVAL_S)
    return build_api(settings, lambda: Day.start(store.settings, settings, _embed))


@contextmanager
def replica(store: LocalStore) -> Iterator[TestClient]:
    """A running replica, and a client of it that may be used from many threads."""
    with TestClient(
        api_of(store), base_url="http://127.0.0.1", raise_server_exceptions=False
    ) as client:
        yield client


@asynccontextmanager
async def running(api: FastAPI) -> AsyncIterator[FastAPI]:
    """A replica on the present event loop."""
    async with api.router.lifespan_context(api):
        yield api


def day_of(client: TestClient) -> Day:
    """The Day of a running replica: what a drill puts its faults into."""
    day: Day = client.app.state.day  # type: ignore[attr-defined]
    return day


@contextmanager
def quiet() -> Iterator[None]:
    """Thousands of faults are logged nowhere meanwhile: each would have its lines."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


async def _embed(texts: list[str]) -> tuple[str, NDArray[np.float32]]:
    return ENCODER_ID, embed(texts)
