"""Airflow as it runs in production, a process a component, on the loopback only.

API server, scheduler (with the LocalExecutor), DAG processor and triggerer, each in a session of
its own, so that a drill may kill one of them with all that it started, as a lost container would,
and start it again.

`StandaloneAirflow` is the same four by one command, `airflow standalone`. Its children outlive a
SIGTERM, and its scheduler and triggerer serve task logs on every interface (to who has a token
signed by the secret, which is drawn anew at each start): for a drill, not for production.
"""

import json
import os
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import psutil

from infra.stack import processes
from infra.stack.airflow_env import LOG_TAIL_BYTES, AirflowEnvironment
from infra.stack.errors import StackStartFailed
from infra.stack.ports import LOOPBACK, accepts, find_free_run

API_SERVER = "api-server"
SCHEDULER = "scheduler"
DAG_PROCESSOR = "dag-processor"
TRIGGERER = "triggerer"
COMPONENTS = (API_SERVER, SCHEDULER, DAG_PROCESSOR, TRIGGERER)
STANDALONE = "standalone"
START_TIMEOUT_S = 480.0
API_TIMEOUT_S = 60.0
USER = "admin"
POLL_S = 0.2
GRACE_S = 15.0
TASK_RUNNER = re.compile(r"airflow worker -- [0-9a-f]{8}-")
"""Title of a task's process; its supervisor says `LocalExecutor:` before the id."""
QUICK_RECOVERY = {
    # Production's defaults wait minutes before a component counts as dead (300 s for a task).
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "40",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "15",
    "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "20",
    "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "20",
    "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "2",
}


class LocalAirflow:
    """The four components below `<state_dir>/airflow`; a context manager.

    Args:
        env: environment of the tasks (`LocalRay.env`, MOONLARK_...).
        settings: of Airflow (`AIRFLOW__...`), over those of QUICK_RECOVERY.
        parallelism: tasks at a time in the worker processes; deferred ones do not count.
    """

    NAMES: tuple[str, ...] = COMPONENTS

    def __init__(
        self,
        airflow: AirflowEnvironment,
        *,
        env: Mapping[str, str] | None = None,
        settings: Mapping[str, str] | None = None,
        parallelism: int = 4,
    ) -> None:
        self._airflow = airflow
        self._passwords_path = airflow.home / "passwords.json"
        self._port = find_free_run(1)
        self._stack_id = secrets.token_hex(8)
        secret = secrets.token_urlsafe(32)
        self._password = secrets.token_urlsafe(32)
        self.env: dict[str, str] = {
            **os.environ,
            **(env or {}),
            **airflow.env,
            **QUICK_RECOVERY,
            **(settings or {}),
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__PARALLELISM": str(parallelism),
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": "120",
            # 5 s by default: a task that begins failed where a busy API server took longer.
            "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "60",
            "AIRFLOW__DAG_PROCESSOR__DAG_FILE_PROCESSOR_TIMEOUT": "180",
            "AIRFLOW__API_AUTH__JWT_SECRET": secret,
            "AIRFLOW__API__SECRET_KEY": secret,
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(self._passwords_path),
            processes.STACK_ID_VARIABLE: self._stack_id,
        }
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def url(self) -> str:
        """Of the API server and its pages."""
        return f"http://{LOOPBACK}:{self._port}"

    def __enter__(self) -> Self:
        self._airflow.prepare()
        descriptor = os.open(self._passwords_path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump({USER: self._password}, file)
        try:
            for name in self.NAMES:
                self.start(name)
            self._wait_for_the_api()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self, name: str) -> None:
        """Start one component; it works some seconds later."""
        command = [sys.executable, "-m", "airflow", name]
        if name == API_SERVER:
            command += ["--host", LOOPBACK, "--port", str(self._port)]
        elif name in (SCHEDULER, TRIGGERER):
            command += ["--skip-serve-logs"]  # they would listen on every interface
        with self.log_path(name).open("ab") as file:
            self._running[name] = subprocess.Popen(
                command,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill(self, name: str) -> None:
        """SIGKILL to a component and to all that it started, as when its container is lost."""
        component = self._running.pop(name)
        processes.kill_all([psutil.Process(component.pid), *_descendants(component.pid)])
        component.wait(timeout=GRACE_S)

    def pid(self, name: str) -> int:
        """Of the component itself."""
        return self._running[name].pid

    def task_runners(self) -> list[psutil.Process]:
        """The processes that run a task now, without those that wait for one."""
        return [
            process
            for process in _descendants(self.pid(SCHEDULER))
            if TASK_RUNNER.match(_title(process))
        ]

    def log_path(self, name: str) -> Path:
        """What a component printed, over all its starts."""
        return self._airflow.home / f"{name}.log"

    def api(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """An answer of Airflow's REST API; `path` below `/api/v2`.

        Raises:
            httpx.HTTPError: no answer, or another status than 2xx.
        """
        with httpx.Client(base_url=self.url, timeout=API_TIMEOUT_S, trust_env=False) as http:
            login = {"username": USER, "password": self._password}
            token = http.post("/auth/token", json=login).raise_for_status().json()["access_token"]
            answer = http.request(
                method,
                f"/api/v2{path}",
                json=None if body is None else dict(body),
                headers={"Authorization": f"Bearer {token}"},
            )
        found: dict[str, Any] = answer.raise_for_status().json()
        return found

    def command(self, *words: str) -> str:
        """What `airflow WORDS` printed, as an operator types it.

        Raises:
            StackStartFailed: it ended with another status than 0.
        """
        done = subprocess.run(
            [sys.executable, "-m", "airflow", *words],
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=START_TIMEOUT_S,
            check=False,
        )
        if done.returncode != 0:
            said = (done.stdout + done.stderr)[-LOG_TAIL_BYTES:]
            raise StackStartFailed(f"airflow {' '.join(words)}: {said}", hint="read what it says")
        return done.stdout

    def stop(self) -> None:
        """SIGTERM to each, then SIGKILL to whatever is left of the four and of their children."""
        # Taken first: workers outlive the scheduler, and their titles overwrite their environment,
        # so that afterwards nothing tells whose they were.
        started = [
            child for component in self._running.values() for child in _descendants(component.pid)
        ]
        for component in self._running.values():
            component.terminate()
        deadline = time.monotonic() + GRACE_S
        for component in self._running.values():
            try:
                component.wait(timeout=max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                component.kill()
        processes.kill_all(started)
        for component in self._running.values():
            processes.kill_all(processes.find(self._stack_id, component.pid))
            component.wait()
        self._running.clear()

    def _wait_for_the_api(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not accepts(self._port):
            for name, component in self._running.items():
                if component.poll() is not None:
                    tail = self.log_path(name).read_bytes()[-LOG_TAIL_BYTES:]
                    raise StackStartFailed(
                        f"airflow {name} ended\n{tail.decode(errors='replace')}",
                        hint=f"read {self.log_path(name)}",
                    )
            if time.monotonic() >= deadline:
                raise StackStartFailed(
                    f"no API server within {START_TIMEOUT_S:.0f} s",
                    hint=f"read {self.log_path(self.NAMES[0])}",
                )
            time.sleep(POLL_S)


class StandaloneAirflow(LocalAirflow):
    """`airflow standalone` below `<state_dir>/airflow`: LocalAirflow in all else."""

    NAMES = (STANDALONE,)

    def __enter__(self) -> Self:
        task_logs = find_free_run(2)
        path = [str(Path(sys.executable).parent), self.env.get("PATH", os.defpath)]
        self.env |= {
            "AIRFLOW__API__HOST": LOOPBACK,
            "AIRFLOW__API__PORT": str(self._port),
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(task_logs),
            "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(task_logs + 1),
            "PATH": os.pathsep.join(reversed(path)),  # it starts its four as `airflow`
        }
        return super().__enter__()


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        return list(psutil.Process(pid).children(recursive=True))
    except psutil.Error:
        return []


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
