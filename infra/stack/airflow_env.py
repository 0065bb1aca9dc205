"""An embedded Airflow: a folder, by default with SQLite in it, no server, no scheduler; one DAG run
at a time.

`AirflowEnvironment(state_dir).run_dag("nightly_generation", env=cluster.env)` runs the DAG in a
child process (`airflow dags test`), as production runs it: same files, same operator, same jobs.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import dags
from infra.stack.errors import StackStartFailed

MIGRATE_TIMEOUT_S = 600.0
DAG_TIMEOUT_S = 4 * 3600.0
TERMINATE_GRACE_S = 30.0
LOG_TAIL_BYTES = 4_000
ASYNC_DATABASE = "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC"


@dataclass(frozen=True, slots=True)
class DagRunOutcome:
    """How a DAG run ended; `log_path` holds all that its tasks and their jobs printed."""

    dag_id: str
    success: bool
    log_path: Path
    elapsed_s: float

    def log_tail(self, max_bytes: int = LOG_TAIL_BYTES) -> str:
        return self.log_path.read_bytes()[-max_bytes:].decode(errors="replace")


class AirflowEnvironment:
    """The folder and the settings of one embedded Airflow, below `<state_dir>/airflow`.

    Args:
        dags_folder: where `<dag_id>.py` lies; None is this project's `dags/`.
        database_url: an empty Postgres database for its own, as in production. None is SQLite:
            there a writer waits 5 s for another and fails, which a busy machine brings about.
    """

    def __init__(
        self,
        state_dir: Path,
        *,
        dags_folder: Path | None = None,
        database_url: str | None = None,
    ) -> None:
        self.home = Path(state_dir).resolve() / "airflow"
        self.dags_folder = dags_folder or Path(next(iter(dags.__path__)))
        self.database_url = database_url

    @property
    def env(self) -> dict[str, str]:
        """Settings of Airflow, on top of the caller's environment."""
        database = self.database_url or f"sqlite:///{self.home / 'airflow.db'}"
        # Airflow would choose asyncpg by itself; psycopg does both.
        async_database = {} if self.database_url is None else {ASYNC_DATABASE: self.database_url}
        return {
            **async_database,
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.dags_folder),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database,
            "AIRFLOW__DATABASE__LOAD_DEFAULT_CONNECTIONS": "False",
            "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(self.home / "logs"),
            "AIRFLOW__LOGGING__COLORED_CONSOLE_LOG": "False",
            "NO_COLOR": "1",
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        }

    def prepare(self) -> None:
        """`airflow db migrate` once per home and Airflow version (6 s; afterwards nothing).

        Raises:
            StackStartFailed: the migration failed.
        """
        marker = self.home / f"migrated-{version('apache-airflow-core')}"
        if marker.exists():
            return
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        log_path = self.home / "db-migrate.log"
        code = self._run(["db", "migrate"], log_path, {}, MIGRATE_TIMEOUT_S)
        if code != 0:
            tail = log_path.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace")
            raise StackStartFailed(
                f"airflow db migrate ended with {code}\n{tail}", hint=f"read {log_path}"
            )
        marker.touch()

    def run_dag(
        self,
        dag_id: str,
        conf: Mapping[str, Any] | None = None,
        *,
        env: Mapping[str, str] | None = None,
        timeout_s: float = DAG_TIMEOUT_S,
    ) -> DagRunOutcome:
        """Run one DAG to its end. A failed run is an answer (`success` is False), no exception.

        Args:
            conf: the run's parameters.
            env: environment of the tasks (`LocalRay.env`, MOONLARK_...).
        """
        self.prepare()
        log_path = self.home / f"{dag_id}-{time.strftime('%Y%m%dT%H%M%S')}.log"
        command = ["dags", "test", dag_id, "--dagfile-path", str(self.dags_folder / f"{dag_id}.py")]
        if conf:
            command += ["--conf", json.dumps(dict(conf))]
        started_s = time.monotonic()
        # dag.test() loops until the run is SUCCESS or FAILED, and the command exits 1 on FAILED
        # (airflow/cli/commands/dag_command.py): 0 means success.
        code = self._run(command, log_path, env or {}, timeout_s)
        return DagRunOutcome(dag_id, code == 0, log_path, time.monotonic() - started_s)

    def _run(
        self, arguments: Sequence[str], log_path: Path, env: Mapping[str, str], timeout_s: float
    ) -> int:
        with log_path.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "airflow", *arguments],
                env={**os.environ, **env, **self.env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                return process.wait(timeout=timeout_s)
            except subprocess.TimeoutExpired:
                return 124
            finally:
                _end_session(process)


def _end_session(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, then SIGKILL, to whatever is left of the child's session."""
    for signal_number, grace_s in ((signal.SIGTERM, TERMINATE_GRACE_S), (signal.SIGKILL, 10.0)):
        if process.poll() is not None:
            return
        os.killpg(process.pid, signal_number)
        try:
            process.wait(timeout=grace_s)
        except subprocess.TimeoutExpired:
            continue
