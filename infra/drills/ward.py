"""Where runbooks are tried: a stack on Postgres, a Prometheus that scrapes it, and some traffic.

Rules are those of infra/prometheus, but an alert fires after a second instead of its `for:`, and
rates are over seconds instead of minutes: nobody wants to wait.
"""

import contextlib
import itertools
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from psycopg import sql as psql
from sqlalchemy import Engine

from infra.drills.catalog import TOPICS
from infra.drills.disk import small_disk
from infra.drills.night_worker import make
from infra.drills.sick_app import APP
from infra.drills.stack import PROJECT, DrillStack, drill_stack, now_ms
from infra.drills.victims import wait_for
from infra.prometheus.check import RULES
from infra.stack.postgres import PostgresServer, connect, create_database
from infra.stack.prometheus import LocalPrometheus
from ray_jobs.nightly.publish import stage_and_flip
from ray_jobs.nightly.settings import NightSettings
from sql import generations
from sql.engine import migrate, open_engine, read_snapshot
from sql.keys import MAX_RATE, SCOPES, make_key, new_secret

ITEMS = 200
USERS = 100
PAUSE_S = 0.25
SEARCHES = 4
"""One event of so many."""
TRAFFIC, TRAFFIC_S = 40, 300.0
"""Events of today that a night finds: it is no fault that nobody did anything."""
COMMAND_TIMEOUT_S = 600.0
DATABASE = "moonlark"
ROLES = PROJECT / "infra" / "postgres" / "roles.sql"
SENDER = "shop"
"""Who sends events."""
SETTINGS = {
    "RAY_metrics_report_interval_ms": "2000",
    "MOONLARK_METRICS_INTERVAL_S": "0.5",
    "MOONLARK_STATEMENT_TIMEOUT_S": "2",
    "MOONLARK_WATCH_INTERVAL_S": "0.2",
    "MOONLARK_SHARD_PLACEMENT": "deployments",
}
WITH_WORDS = "python -m infra.drills.with_words"
HURRIED_STOP = "moonlark_last_event_timestamp_seconds) > 10"
DISK_BYTES = 256 * 1024**2
STAGE = NightSettings(stage_deadline_s=120)


def hurried(rules: str) -> str:
    """The rules, for who has no time: an hour without events is ten seconds."""
    rules = re.sub(r"^( +for:) .*$", r"\1 1s", rules, flags=re.M)
    rules = rules.replace("moonlark_last_event_timestamp_seconds) > 3600", HURRIED_STOP)
    return re.sub(r"\[\d+m\]", "[30s]", rules)


class Murmur(threading.Thread):
    """Some users who click, search and ask, whatever they are answered."""

    def __init__(self, url: str, key: str, reads_with: str) -> None:
        super().__init__(name="murmur", daemon=True)
        self._url = url
        self._ending = threading.Event()
        self._reads_with = reads_with
        self.key = key
        """With which events are sent. A sender's may be revoked; lists have one of their own."""
        self.asks_for_lists = True
        self.stored = 0
        """Events that were acknowledged."""

    def run(self) -> None:
        """Until `end`."""
        asks = bearer(self._reads_with)
        with httpx.Client(base_url=self._url, timeout=15) as http:
            for n in itertools.count():
                if self._ending.wait(PAUSE_S):
                    return
                user = f"idle{n % 10}"
                with contextlib.suppress(httpx.HTTPError):
                    answer = http.post("/v1/events", json=_event(n, user), headers=bearer(self.key))
                    self.stored += answer.is_success
                    if self.asks_for_lists:
                        http.get(f"/v1/users/{user}/recommendations", headers=asks)

    def end(self) -> None:
        """And wait for it."""
        self._ending.set()
        self.join(30)


def bearer(key: str) -> dict[str, str]:
    """The header that a key is sent in."""
    return {"Authorization": f"Bearer {key}"}


def _key(engine: Engine, name: str, scopes: Sequence[str]) -> str:
    secret = new_secret()
    make_key(engine, secret, name=name, scopes=scopes, requests_per_minute=MAX_RATE, at_ms=now_ms())
    return secret


def _event(n: int, user: str) -> dict[str, str]:
    if n % SEARCHES == 0:
        return {"kind": "search", "user_id": user, "text": f"{TOPICS[n % len(TOPICS)]} {n}"}
    return {"kind": "click", "user_id": user, "item_id": f"i{n % ITEMS}"}


@dataclass
class Ward:
    """What a fault may touch, and how a runbook's commands are run."""

    stack: DrillStack
    server: PostgresServer
    prometheus: LocalPrometheus
    murmur: Murmur
    key: str
    """The on-call's."""
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    failed: str = "none"
    """The generation that GENERATION stands for in commands."""

    @property
    def live(self) -> str:
        """The live generation."""
        with read_snapshot(self.stack.engine) as conn:
            pointer = generations.read_live(conn)
        assert pointer is not None, "a stack begins with one"
        return pointer.generation_id

    def make(self, generation_id: str | None = None) -> str:
        """A sealed generation of the present catalog."""
        name = generation_id or f"g{next(self.numbers)}"
        stack, seed = self.stack, next(self.numbers)
        stack.night.submit(make, stack.database_url, stack.root, name, seed).result()
        return name

    def publish(self, generation_id: str) -> None:
        """Staged and flipped to, whatever is held."""
        self.clear_hold()
        stage_and_flip(
            self.stack.engine,
            generation_id,
            settings=STAGE,
            who="drill",
            why="drill",
            hold=False,
            now_ms=now_ms,
        )

    def clear_hold(self) -> None:
        """So that the next fault begins without."""
        with read_snapshot(self.stack.engine) as conn:
            pointer = generations.read_live(conn)
        if pointer is not None and pointer.hold:
            generations.clear_hold(
                self.stack.engine,
                expected_flip=pointer.flip,
                who="drill",
                why="drill",
                at_ms=now_ms(),
            )

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """A line of a runbook, as the on-call types it."""
        return subprocess.run(
            ["bash", "-c", self._typed(command)],
            env={**os.environ, **self.environment()},
            cwd=self.stack.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )

    @contextmanager
    def started(self, command: str) -> Iterator[None]:
        """The same, and after the block kill -9, wherever it is."""
        with (self.stack.folder / "started.log").open("ab") as log:
            process = subprocess.Popen(
                ["bash", "-c", self._typed(command)],
                env={**os.environ, **self.environment()},
                cwd=self.stack.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _typed(self, command: str) -> str:
        """With the stack's own names, and with words where BERT would be."""
        for name in ("night", "parity"):
            command = command.replace(f"moonlark {name}", f"{WITH_WORDS} {name}")
        return command.replace("serve.app:build", APP).replace("GENERATION", self.failed)

    def environment(self) -> Mapping[str, str]:
        """What the on-call's shell has set."""
        stack = self.stack
        folders = (Path(sys.executable).parent, self.server.binaries)
        path = os.pathsep.join([*(str(folder) for folder in folders), os.environ["PATH"]])
        return {
            **stack.cluster.env,
            **SETTINGS,
            "PATH": path,
            "PYTHONPATH": f"{PROJECT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
            "MOONLARK_DATABASE_URL": self.server.url(DATABASE, "moonlark_oncall"),
            "MOONLARK_ARTIFACT_ROOT": str(stack.root),
            "MOONLARK_URL": stack.url,
            "MOONLARK_API_KEY": self.key,
            "RAY_DASHBOARD_ADDRESS": stack.cluster.jobs_url,
            "RAY_API_SERVER_ADDRESS": stack.cluster.jobs_url,
            "MOONLARK_STAGE_DEADLINE_S": "120",
            "MOONLARK_TRAIN_RECIPE": "tiny",
            # The data checks are to judge a log as small as this one.
            "MOONLARK_CHECK_MIN_EVENTS": "100",
            "PGURL": self.server.url(DATABASE, "moonlark_oncall").replace("+psycopg", ""),
        }


def _make_database(server: PostgresServer) -> None:
    """With the roles of production: the on-call has no more rights here than there."""
    create_database(server.url(), DATABASE)
    server.run_script(ROLES, DATABASE)
    with connect(server.url()) as conn:
        for role in ("moonlark_owner", "moonlark_writer", "moonlark_oncall"):
            conn.execute(psql.SQL("ALTER ROLE {} LOGIN").format(psql.Identifier(role)))
    owner = open_engine(server.url(DATABASE, "moonlark_owner"))
    migrate(owner)
    owner.dispose()
    server.run_script(ROLES, DATABASE)  # which grants what is there now


@contextmanager
def ward(seed: int) -> Iterator[Ward]:
    """One for all faults, in about a minute."""
    with ExitStack() as ends:
        server = PostgresServer()
        ends.callback(server.stop)
        server.start()
        _make_database(server)
        root = ends.enter_context(small_disk(DISK_BYTES))
        stack = ends.enter_context(
            drill_stack(
                items=ITEMS,
                users=USERS,
                seed=seed,
                env=SETTINGS,
                app=APP,
                database_url=server.url(DATABASE, "moonlark_writer"),
                root=root,
            )
        )
        rules = hurried(RULES.read_text(encoding="utf-8"))
        ports = stack.cluster.state.ports
        jobs = {"moonlark": ports.metrics_export, "moonlark-proxy": ports.haproxy_metrics}
        prometheus = ends.enter_context(LocalPrometheus(stack.folder / "prometheus", jobs, rules))
        murmur = Murmur(
            stack.url,
            _key(stack.engine, SENDER, ("events:write",)),
            _key(stack.engine, "readers", ("recommend:read",)),
        )
        murmur.start()
        ends.callback(murmur.end)
        wait_for("some traffic", lambda: murmur.stored >= TRAFFIC, TRAFFIC_S)
        yield Ward(stack, server, prometheus, murmur, _key(stack.engine, "on-call", SCOPES))
