"""A stack of a drill's own: store, Ray, Serve and HAProxy, in a folder that goes with it."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import psutil
from sqlalchemy import Engine

from infra.drills.catalog import fill_catalog
from infra.drills.clock import CLOCKS_VARIABLE
from infra.drills.generation import SHARDS
from infra.drills.memory import kept_gcs
from infra.drills.night_worker import make
from infra.drills.sickness import FOLDER_VARIABLE
from infra.stack.ray_cluster import LocalRay
from infra.stack.serve_app import deploy
from ray_jobs.nightly.publish import stage_and_flip
from ray_jobs.nightly.settings import NightSettings
from sql.engine import migrate, open_engine
from sql.events import EventKind, NewEvent, append

PROJECT = Path(__file__).parents[2]
APP = "infra.drills.app:build"
APPEND_AT_ONCE = 2_000
DEPLOY_TIMEOUT_S = 900.0
"""A drill may be one of many things that a machine does."""
EVENTS_A_USER = 2
IDLE_MS = 7 * 86_400_000
NODE_CPUS = 1
"""Replicas ask for a tenth of one."""


@dataclass(frozen=True)
class DrillStack:
    """What a scenario may touch. `night`: a process of its own, as the night's jobs are."""

    folder: Path
    database_url: str
    engine: Engine
    root: Path
    cluster: LocalRay
    night: ProcessPoolExecutor
    nodes: list[psutil.Process]
    """`ray start` of each node beside the head; without any the head does all."""

    @property
    def faults(self) -> Path:
        """Where a drill says which deployment is sick (`sickness`)."""
        return self.folder / "faults"

    @property
    def url(self) -> str:
        """Base URL of the API."""
        return self.cluster.http_url


@contextmanager
def drill_stack(
    *,
    items: int,
    users: int,
    seed: int,
    replicas: int = 2,
    env: Mapping[str, str] | None = None,
    app: str = APP,
    shards: int = SHARDS,
    database_url: str | None = None,
    nodes: int = 0,
    node_memory_bytes: int | None = None,
    root: Path | None = None,
) -> Iterator[DrillStack]:
    """A catalog, a log of `users`, generation g0 live, `replicas` behind HAProxy.

    `env`: further settings of the replicas. `shards`: of g0. `database_url`: an empty one; None is
    a SQLite file. `nodes`: beside the head, which then runs no replica, and the memory
    that each has for those that ask for some. `root`: the artifact root, by default in the folder.
    """
    folder = Path(tempfile.mkdtemp(prefix="moonlark-drill-"))
    url, root = database_url or f"sqlite:///{folder / 'moonlark.db'}", root or folder / "artifacts"
    engine = open_engine(url)
    environment = {
        "MOONLARK_DATABASE_URL": url,
        "MOONLARK_ARTIFACT_ROOT": str(root),
        "MOONLARK_REPLICAS": str(replicas),
        CLOCKS_VARIABLE: str(folder / "clocks"),
        "PYTHONPATH": f"{PROJECT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        FOLDER_VARIABLE: str(folder / "faults"),
        **(env or {}),
    }
    (folder / "faults").mkdir()
    night = ProcessPoolExecutor(1, get_context("spawn"))
    head_cpus = 0 if nodes else None
    try:
        migrate(engine)
        fill_catalog(engine, items, np.random.default_rng(seed), now_ms())
        _fill_log(engine, users, items, np.random.default_rng(seed + 1))
        night.submit(make, url, root, "g0", seed, shards).result()
        stage_and_flip(
            engine,
            "g0",
            settings=NightSettings(),
            who="drill",
            why="the first",
            hold=False,
            now_ms=now_ms,
        )
        with ExitStack() as ends:
            kept = ends.enter_context(kept_gcs()) if nodes else {}
            cluster = ends.enter_context(
                LocalRay(folder, 0, head_cpus, cwd=PROJECT, extra_env={**environment, **kept})
            )
            others = [cluster.add_node(NODE_CPUS, node_memory_bytes) for _ in range(nodes)]
            deploy(cluster, app, env=environment, timeout_s=DEPLOY_TIMEOUT_S)
            yield DrillStack(folder, url, engine, root, cluster, night, others)
    finally:
        night.shutdown(cancel_futures=True)
        engine.dispose()
        shutil.rmtree(folder, ignore_errors=True)


def _fill_log(engine: Engine, users: int, items: int, rng: np.random.Generator) -> None:
    """Users who did something once and are idle now: their sessions are the night's bulk."""
    long_ago_ms = now_ms() - IDLE_MS
    chosen = rng.integers(items, size=(users, EVENTS_A_USER))
    for first in range(0, users, APPEND_AT_ONCE):
        requests = [
            [
                NewEvent(
                    f"idle{user}",
                    f"e{n}",
                    EventKind.VIEW,
                    f"i{chosen[user, n]}",
                    occurred_at_ms=long_ago_ms + n,
                )
                for n in range(EVENTS_A_USER)
            ]
            for user in range(first, min(users, first + APPEND_AT_ONCE))
        ]
        append(engine, requests, received_at_ms=now_ms())


def now_ms() -> int:
    """Wall clock in milliseconds."""
    return time.time_ns() // 1_000_000
