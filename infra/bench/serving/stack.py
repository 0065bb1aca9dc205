"""The shipped stack on a copy of the made store, with a Serve app that does nothing beside it.

One cluster and one HAProxy for both: what they cost apart is what their replicas do.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
from sqlalchemy import Engine

from infra.bench.serving.costs import Meter
from infra.bench.serving.made_store import MadeStore
from infra.stack import local_http, processes
from infra.stack.ports import LOOPBACK, find_free_run
from infra.stack.postgres import PostgresServer, create_database
from infra.stack.ray_cluster import LocalRay
from infra.stack.serve_app import deploy
from sql.engine import open_engine
from sql.keys import MAX_RATE, make_key, new_secret

Database = Literal["sqlite", "postgres"]

REPLICAS = 2
DEPLOY_TIMEOUT_S = 300.0
PROJECT = Path(__file__).parents[3]
NOOP = "infra.bench.serving.floor_apps:build"
UVICORN_TIMEOUT_S = 30.0
STEADY_ENV = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "OPENBLAS_NUM_THREADS": "1"}


@dataclass(frozen=True)
class BenchStack:
    """What a phase may use. `secret`: of a key with the scopes of a shop."""

    cluster: LocalRay
    engine: Engine
    database_url: str
    database: Database
    folder: Path
    secret: str
    meter: Meter
    replicas: list[psutil.Process]

    @property
    def database_version(self) -> dict[str, str]:
        """By the name of the database."""
        with self.engine.connect():
            numbers = self.engine.dialect.server_version_info or ()
        name = "SQLite" if self.database == "sqlite" else "Postgres"
        return {name: ".".join(map(str, numbers))}

    @property
    def port(self) -> int:
        """Where HAProxy answers."""
        return self.cluster.http_port


@contextmanager
def bench_stack(
    store: MadeStore, database: Database, bert_model: Path | str
) -> Iterator[BenchStack]:
    """Deployed and routed; gone at the end."""
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="moonlark-bench-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        server: PostgresServer | None = None
        if database == "postgres":
            server = PostgresServer()
            stack.callback(server.stop)
            server.start()
            create_database(server.url(), "moonlark")
            url = server.url("moonlark")
            store.copy_into(url)
        else:
            url = store.copy_sqlite(folder / "moonlark.db")
        engine = open_engine(url)
        stack.callback(engine.dispose)
        secret = make_bench_key(engine)
        environment = {
            **STEADY_ENV,
            "MOONLARK_DATABASE_URL": url,
            "MOONLARK_ARTIFACT_ROOT": str(store.root),
            "MOONLARK_REPLICAS": str(REPLICAS),
            "MOONLARK_BERT_MODEL": str(Path(bert_model).absolute()),
            "PYTHONPATH": f"{PROJECT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        }
        cluster = LocalRay(folder, 0, cwd=PROJECT, extra_env=environment)
        stack.enter_context(cluster)
        _deploy(cluster, environment)
        members = _members(cluster)
        groups = {
            "gateway": lambda: members["gateway"],
            "noop": lambda: members["noop"],
            "noop fastapi": lambda: members["noop fastapi"],
            "haproxy": lambda: members["haproxy"],
            "encoder": lambda: members["encoder"],
            "database": lambda: [] if server is None else server.processes(),
        }
        yield BenchStack(
            *(cluster, engine, url, database, folder, secret, Meter(groups), members["gateway"])
        )


def make_bench_key(engine: Engine) -> str:
    """The secret of a key that no rate limits."""
    secret = new_secret()
    make_key(
        engine,
        secret,
        name="bench",
        scopes=("events:write", "recommend:read"),
        requests_per_minute=MAX_RATE,
        at_ms=time.time_ns() // 1_000_000,
    )
    return secret


def _deploy(cluster: LocalRay, environment: dict[str, str]) -> None:
    for framework in ("asgi", "fastapi"):
        deploy(
            cluster,
            NOOP,
            args={"replicas": REPLICAS, "framework": framework},
            name=f"noop-{framework}",
            route_prefix=f"/noop-{framework}",
            timeout_s=DEPLOY_TIMEOUT_S,
        )
    deploy(cluster, "serve.app:build", env=environment, timeout_s=DEPLOY_TIMEOUT_S)


def _members(cluster: LocalRay) -> dict[str, list[psutil.Process]]:
    """Processes of the stack that take part in a request, by what they are."""
    marks = {
        "gateway": "ServeReplica:moonlark:Gateway",
        "encoder": "ServeReplica:moonlark:TextEncoder",
        "noop": "ServeReplica:noop-asgi:",
        "noop fastapi": "ServeReplica:noop-fastapi:",
    }
    found: dict[str, list[psutil.Process]] = {name: [] for name in (*marks, "haproxy")}
    for process in processes.find(cluster.state.stack_id, cluster.state.head_pid):
        command = " ".join(process.cmdline())
        for name, mark in marks.items():
            if mark in command:
                found[name].append(process)
        if process.name() == "haproxy":
            found["haproxy"].append(process)
    expected = {"gateway": REPLICAS, "noop": REPLICAS, "noop fastapi": REPLICAS, "encoder": 1}
    for name, count in expected.items():
        assert len(found[name]) == count, f"{name}: {len(found[name])} processes"
    assert found["haproxy"], "HAProxy runs"
    return found


@contextmanager
def bare_fastapi() -> Iterator[tuple[int, psutil.Process]]:
    """FastAPI under uvicorn, one process; its port."""
    port = find_free_run(1)
    command = [sys.executable, "-m", "uvicorn", "infra.bench.serving.floor_apps:api"]
    command += ["--host", LOOPBACK, "--port", str(port), "--log-level", "warning"]
    command += ["--loop", "uvloop", "--http", "httptools", "--no-access-log"]
    running = subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.DEVNULL)
    try:
        deadline_s = time.monotonic() + UVICORN_TIMEOUT_S
        while local_http.get(f"http://{LOOPBACK}:{port}/nothing") is None:
            if running.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError("uvicorn did not start")
            time.sleep(0.1)
        yield port, psutil.Process(running.pid)
    finally:
        running.terminate()
        running.wait()


def run_name() -> str:
    """Of this run, so that its event ids are new."""
    return secrets.token_hex(4)
