"""Nights of a small catalog on a real Airflow and a real Ray: DAGs, jobs and steps as shipped.

The store and Airflow's own database are Postgres, and the Jobs API asks for a token, as in
production. BERT has random weights (`made_bert`). Ray's head keeps what it knows (`rocksdb`), as
that of `infra/compose.yaml` does, and does the work of the nodes, too.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from infra.drills.figures import Figures
from infra.drills.local import LocalStore, local_store
from infra.drills.made_bert import make_bert
from infra.drills.memory import STORAGE_PATH, kept_gcs
from infra.drills.small_night import fill
from infra.drills.stack import PROJECT
from infra.drills.submitted import SubmittedJobs
from infra.stack.airflow_components import LocalAirflow
from infra.stack.airflow_env import AirflowEnvironment
from infra.stack.postgres import PostgresServer, create_database
from infra.stack.ray_cluster import LocalRay
from sql import generations
from sql.engine import read_snapshot

NIGHT = "nightly_generation"
NIGHT_S = 1_800.0
"""The longest wait."""
POLL_S = 1.0
STORE, AIRFLOW = "moonlark", "airflow"
"""Databases."""
HEAD_CPUS = 4
"""As Ray counts them: a night and what runs beside it need one or two."""
SMALL = {
    "MOONLARK_TRAIN_RECIPE": "tiny",
    "MOONLARK_HOLDOUT_HOURS": "1",
    "MOONLARK_FUSION_QUESTIONS": "300",
    "MOONLARK_STAGE_DEADLINE_S": "20",
    "MOONLARK_VERIFY_DEADLINE_S": "20",
}
PARSED_SELDOM = {
    # Seven files in processes of their own, each half minute, are a quarter of two cores.
    "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "600",
}
OVER = ("success", "failed")
Run = dict[str, Any]


@dataclass
class AirflowNights:
    """A store with a small catalog, the Ray head of the jobs, and the Airflow that begins them."""

    store: LocalStore
    cluster: LocalRay
    gcs: Path
    """What Ray's head keeps."""
    airflow: LocalAirflow
    figures: Figures

    @property
    def airflow_home(self) -> Path:
        """Airflow's own folder."""
        return self.store.folder / "airflow"

    @property
    def jobs(self) -> SubmittedJobs:
        """Of the head."""
        return SubmittedJobs(self.cluster)

    def flips(self) -> int:
        """How often a generation went live."""
        with read_snapshot(self.store.engine) as conn:
            live = generations.read_live(conn)
        return 0 if live is None else live.flip

    def runs(self, dag_id: str = NIGHT) -> list[Run]:
        """The oldest first; none while Airflow does not answer."""
        try:
            answer = self.airflow.api("GET", f"/dags/{dag_id}/dagRuns?order_by=id")
        except httpx.HTTPError:
            return []
        found: list[Run] = answer["dag_runs"]
        return found

    def run(self, run_id: str, dag_id: str = NIGHT) -> Run:
        """One of them; raises httpx.HTTPError."""
        return self.airflow.api("GET", f"/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}")

    def is_over(self, run_id: str, dag_id: str = NIGHT) -> bool:
        """Whether it has ended; False while Airflow does not answer."""
        try:
            return self.run(run_id, dag_id)["state"] in OVER
        except httpx.HTTPError:
            return False

    def wait(self, condition: Callable[[], bool], what: str) -> bool:
        """Whether it came true within NIGHT_S; if not, the figures tell it."""
        deadline = time.monotonic() + NIGHT_S
        while not condition():
            if time.monotonic() >= deadline:
                self.figures.tell(f"not within {NIGHT_S:.0f} s: {what}")
                return False
            time.sleep(POLL_S)
        return True

    def let_run(self, dag_id: str = NIGHT) -> bool:
        """Unpause a DAG once it is parsed: its last scheduled run is due at once, if it has one."""

        def is_let() -> bool:
            try:
                self.airflow.api("PATCH", f"/dags/{dag_id}", {"is_paused": False})
            except httpx.HTTPError:
                return False
            return True

        return self.wait(is_let, f"{dag_id} is parsed")

    def kill_head(self, *, forgets: bool) -> None:
        """kill -9 of the head with all that it runs. `forgets`: its storage is lost with it."""
        self.cluster.kill_head()
        if forgets:
            shutil.rmtree(self.gcs)


@contextmanager
def airflow_nights(
    of: type[LocalAirflow], figures: Figures, seed: int, *, schedule: str
) -> Iterator[AirflowNights]:
    """`schedule`: a cron expression, empty for by hand. The night's DAG may run from then on."""
    with ExitStack() as ends:
        server = PostgresServer()
        ends.callback(server.stop)
        server.start()
        for name in (STORE, AIRFLOW):
            create_database(server.url(), name)
        gcs = ends.enter_context(kept_gcs())
        store = ends.enter_context(local_store(items=0, seed=seed, database_url=server.url(STORE)))
        fill(store, seed)
        # So that the processes find the project also where it is not installed.
        folders = [str(PROJECT), *filter(None, [os.getenv("PYTHONPATH")])]
        path = {"PYTHONPATH": os.pathsep.join(folders)}
        jobs_env = {
            **path,
            **SMALL,
            "MOONLARK_DATABASE_URL": store.database_url,
            "MOONLARK_ARTIFACT_ROOT": str(store.root),
            "MOONLARK_BERT_MODEL": str(make_bert(store.folder / "bert")),
            **gcs,
        }
        cluster = ends.enter_context(
            LocalRay(store.folder, 0, HEAD_CPUS, extra_env=jobs_env, cwd=PROJECT)
        )
        airflow = ends.enter_context(
            of(
                AirflowEnvironment(store.folder, database_url=server.url(AIRFLOW)),
                env={**cluster.env, **path, "MOONLARK_NIGHT_SCHEDULE": schedule},
                settings=PARSED_SELDOM,
            )
        )
        nights = AirflowNights(store, cluster, Path(gcs[STORAGE_PATH]), airflow, figures)
        nights.let_run()
        yield nights
