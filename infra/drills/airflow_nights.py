"""Nights of a small catalog on a real Airflow: the DAG as it is shipped, its jobs without Ray.

Airflow's own database is a Postgres, as in production.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from infra.drills.figures import Figures
from infra.drills.jobs_api import JobsApi
from infra.drills.local import LocalStore, local_store
from infra.drills.small_night import fill
from infra.stack.airflow_components import LocalAirflow
from infra.stack.airflow_env import AirflowEnvironment
from infra.stack.postgres import PostgresServer, create_database
from sql import generations
from sql.engine import read_snapshot

NIGHT = "nightly_generation"
NIGHT_S = 1_800.0
"""The longest wait."""
POLL_S = 0.5
DATABASE = "airflow"
JOB = """#!/bin/sh
exec "$MOONLARK_DRILL_PYTHON" -m infra.drills.night_job "$@"
"""


@dataclass
class AirflowNights:
    """A store with a small catalog, the jobs, and the Airflow that begins them."""

    store: LocalStore
    jobs: JobsApi
    airflow: LocalAirflow
    figures: Figures

    def flips(self) -> int:
        """How often a generation went live."""
        with read_snapshot(self.store.engine) as conn:
            live = generations.read_live(conn)
        return 0 if live is None else live.flip

    def runs(self) -> list[dict[str, Any]]:
        """Of the night, the oldest first; none while Airflow does not answer."""
        try:
            answer = self.airflow.api("GET", f"/dags/{NIGHT}/dagRuns?order_by=id")
        except httpx.HTTPError:
            return []
        found: list[dict[str, Any]] = answer["dag_runs"]
        return found

    def run(self, run_id: str) -> dict[str, Any]:
        """One of them; raises httpx.HTTPError."""
        return self.airflow.api("GET", f"/dags/{NIGHT}/dagRuns/{quote(run_id, safe='')}")

    def wait(self, condition: Callable[[], bool], what: str) -> bool:
        """Whether it came true within NIGHT_S; if not, the figures tell it."""
        deadline = time.monotonic() + NIGHT_S
        while not condition():
            if time.monotonic() >= deadline:
                self.figures.tell(f"not within {NIGHT_S:.0f} s: {what}")
                return False
            time.sleep(POLL_S)
        return True

    def is_parsed(self) -> bool:
        """Whether Airflow knows the DAG."""
        try:
            self.airflow.api("GET", f"/dags/{NIGHT}")
        except httpx.HTTPError:
            return False
        return True


@contextmanager
def airflow_nights(
    of: type[LocalAirflow], figures: Figures, seed: int, *, schedule: str
) -> Iterator[AirflowNights]:
    """`schedule`: a cron expression, empty for by hand. The DAG may run from then on."""
    with ExitStack() as ends:
        server = PostgresServer()
        ends.callback(server.stop)
        server.start()
        create_database(server.url(), DATABASE)
        store = ends.enter_context(local_store(items=0, seed=seed))
        fill(store, seed)
        job = store.folder / "bin" / "python"
        job.parent.mkdir()
        job.write_text(JOB)
        job.chmod(0o700)
        env = {
            "MOONLARK_DATABASE_URL": store.database_url,
            "MOONLARK_ARTIFACT_ROOT": str(store.root),
            "MOONLARK_DRILL_PYTHON": sys.executable,
            "PATH": f"{job.parent}:{os.environ.get('PATH', os.defpath)}",
        }
        jobs = ends.enter_context(JobsApi(store.folder, env))
        airflow = ends.enter_context(
            of(
                AirflowEnvironment(store.folder, database_url=server.url(DATABASE)),
                env={
                    "MOONLARK_RAY_JOBS_URL": jobs.url,
                    "MOONLARK_NIGHT_SCHEDULE": schedule,
                    **_where_we_are(),
                },
            )
        )
        nights = AirflowNights(store, jobs, airflow, figures)
        if nights.wait(nights.is_parsed, "the DAG is parsed"):
            airflow.api("PATCH", f"/dags/{NIGHT}", {"is_paused": False})
        yield nights


def _where_we_are() -> dict[str, str]:
    """So that Airflow's processes find the project also where it is not installed."""
    project = str(Path(__file__).parents[2])
    return {"PYTHONPATH": os.pathsep.join([project, *filter(None, [os.getenv("PYTHONPATH")])])}
