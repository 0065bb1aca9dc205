"""One local Ray cluster as child processes: loopback only, behind a token, gone when stopped.

`LocalRay(state_dir).start()` starts `ray start --head --block` in a session of its own with its
own ports and temp dir, and writes `<state_dir>/ray/state.json`, so that another process can
`LocalRay.attach(state_dir).stop()`. `env` is what drivers, job clients and Airflow need.

Ray's Jobs API and dashboard run arbitrary code for whoever reaches them (CVE-2023-48022), so
both listen on 127.0.0.1 and ask for the token in `<state_dir>/ray/token` (mode 0600). Serve's
HTTP port, HAProxy's statistics and the metrics ports are not covered by the token, only by the
loopback.
"""

import logging
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from infra.stack import local_http, processes, ray_state
from infra.stack.errors import StackNotRunning, StackRunning, StackStartFailed
from infra.stack.ports import LOOPBACK, accepts, find_free_run
from infra.stack.ray_environment import (
    RayPorts,
    client_environment,
    head_environment,
    make_temp_dir,
)
from infra.stack.ray_state import RayState, read_state, write_state, write_token

log = logging.getLogger(__name__)

START_TIMEOUT_S = 120.0
KILL_TIMEOUT_S = 10.0
HEAD_STARTS = 3
READY_POLL_S = 0.1
DEFAULT_OBJECT_STORE_BYTES = 256 * 2**20
LOG_TAIL_BYTES = 4_000
NODE_TRIES = 3
NODE_STARTED = b"Ray runtime started"
NODE_PORTS = (
    "node-manager-port",
    "object-manager-port",
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "runtime-env-agent-port",
    "metrics-export-port",
)


class LocalRay:
    """A Ray head on this machine; a context manager that starts and stops it.

    Args:
        state_dir: where the token, the state file and the logs are kept (mode 0700 below `ray/`).
        http_port: where Serve's HTTP answers once an app is deployed; 0 takes a free one.
        num_cpus: what Ray schedules on; None is the machine's count.
        object_store_bytes: shared memory for Ray objects.
        extra_env: environment that jobs and replicas shall have (MOONLARK_DATABASE_URL, ...).
        cwd: working directory of jobs and replicas; None is the present one.
    """

    def __init__(
        self,
        state_dir: Path,
        http_port: int = 8000,
        num_cpus: int | None = None,
        *,
        object_store_bytes: int = DEFAULT_OBJECT_STORE_BYTES,
        extra_env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self._folder = Path(state_dir).resolve() / "ray"
        self._asked_http_port = http_port
        self._num_cpus = num_cpus
        self._object_store_bytes = object_store_bytes
        self._extra_env = dict(extra_env or {})
        self._cwd = cwd
        self._state: RayState | None = None
        self._head: subprocess.Popen[bytes] | None = None
        self._nodes: list[subprocess.Popen[bytes]] = []

    @classmethod
    def attach(cls, state_dir: Path) -> "LocalRay":
        """The cluster that was started from `state_dir`, by whichever process.

        Raises:
            StackNotRunning: no state file there.
        """
        cluster = cls(state_dir)
        cluster._state = read_state(cluster._folder)
        if cluster._state is None:
            raise StackNotRunning(f"{state_dir}: no Ray cluster was started here", hint="make up")
        return cluster

    @property
    def state(self) -> RayState:
        """Raises StackNotRunning before start() and after stop()."""
        if self._state is None:
            raise StackNotRunning(f"{self._folder.parent}: no Ray cluster runs", hint="make up")
        return self._state

    @property
    def jobs_url(self) -> str:
        """Base URL of the dashboard and the Jobs API (asks for the token)."""
        return self.state.jobs_url

    @property
    def gcs_address(self) -> str:
        """For `ray.init(address=...)`."""
        return self.state.gcs_address

    @property
    def http_port(self) -> int:
        return self.state.ports.http

    @property
    def http_url(self) -> str:
        """Base URL of what Serve answers."""
        return f"http://{LOOPBACK}:{self.http_port}"

    @property
    def token_path(self) -> Path:
        return self._folder / ray_state.TOKEN_NAME

    @property
    def log_path(self) -> Path:
        """What `ray start` printed; Ray's own logs are moved beside it at stop()."""
        return self._folder / "ray-start.log"

    @property
    def env(self) -> dict[str, str]:
        """What a driver or client needs on top of its own environment (see ray_environment)."""
        return client_environment(self.state.ports, self.state.temp_dir, self.token_path)

    def is_running(self) -> bool:
        """Whether the head process is alive."""
        return self._state is not None and processes.is_same(
            self._state.head_pid, self._state.head_created_s
        )

    def start(self) -> Self:
        """Start the head and wait until it takes jobs (about 6 s on an idle machine).

        Raises:
            StackRunning: a cluster already runs from this state dir.
            PortTaken: something else listens on the HTTP port.
            StackStartFailed: `HEAD_STARTS` times Ray ended or was not ready within START_TIMEOUT_S
                (it gives itself half a minute, too little for a busy machine); nothing remains.
        """
        self._refuse_second()
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _try_starts(self._start)
        return self

    def _start(self) -> None:
        self.log_path.unlink(missing_ok=True)
        ports = RayPorts.choose(self._asked_http_port)
        token = write_token(self._folder)
        temp_dir = make_temp_dir()
        stack_id = secrets.token_hex(8)
        head = self._spawn(temp_dir, ports, stack_id)
        created_s = psutil.Process(head.pid).create_time()
        self._head = head
        self._state = RayState(stack_id, head.pid, created_s, temp_dir, ports)
        write_state(self._folder, self._state)
        try:
            self._wait_ready(head, ports, token)
        except BaseException:
            self.stop()
            raise

    def add_node(self, num_cpus: int, memory_bytes: int | None = None) -> psutil.Process:
        """Another Ray node on this machine, as if it were one of its own; returns its `ray start`.

        All that it starts descends from that process. `memory_bytes`: what Ray gives away to those
        that ask for memory; None: most of the machine's.

        Raises:
            StackStartFailed: Ray gave up `NODE_TRIES` times (on a busy machine the head may not
                answer within the half minute that a node waits for it).
        """
        for number in range(NODE_TRIES):
            log_path = self._folder / f"ray-node-{len(self._nodes)}.log"
            node = self._spawn_node(num_cpus, memory_bytes, log_path)
            self._nodes.append(node)
            while node.poll() is None:
                if NODE_STARTED in log_path.read_bytes():
                    return psutil.Process(node.pid)
                time.sleep(READY_POLL_S)
            log.warning("a node ended as it started (try %d)", number + 1)
        raise StackStartFailed("ray start of a node ended", hint=f"read {log_path}")

    def _spawn_node(
        self, num_cpus: int, memory_bytes: int | None, log_path: Path
    ) -> subprocess.Popen[bytes]:
        state = self.state
        first_port = find_free_run(len(NODE_PORTS))
        command = [sys.executable, "-m", "infra.stack.ray_node", "start", "--block"]
        command += [
            f"--address={self.gcs_address}",
            f"--node-ip-address={LOOPBACK}",
            f"--num-cpus={num_cpus}",
            f"--object-store-memory={self._object_store_bytes}",
            "--disable-usage-stats",
            "--include-log-monitor=false",  # the head's reads the same folder
            *([] if memory_bytes is None else [f"--memory={memory_bytes}"]),
            *(f"--{name}={first_port + n}" for n, name in enumerate(NODE_PORTS)),
        ]
        client = client_environment(state.ports, state.temp_dir, self.token_path)
        extra = {**self._extra_env, processes.STACK_ID_VARIABLE: state.stack_id}
        return self._run(command, head_environment(os.environ, client, extra), log_path)

    def restart_head(self, others: Iterable[psutil.Process] = ()) -> None:
        """What a service manager does after the head died: clear away what is left of it, start it
        again with the same ports, and again where that fails (Ray gives up a GCS that does not
        answer within 30 s, as one may that reads its storage while its nodes call). With
        `RAY_gcs_storage=rocksdb` it knows its cluster again.

        Args:
            others: of the stack, but not of the head: they live on.

        Raises:
            StackStartFailed: HEAD_STARTS times Ray ended or was not ready within START_TIMEOUT_S.
        """
        kept = list(others)
        _try_starts(lambda: self._restart_head(kept))

    def kill_head(self, others: Iterable[psutil.Process] = ()) -> None:
        """kill -9 of the head with all that it runs, jobs too, as when its container is lost.

        Args:
            others: of the stack, but not of the head: they live on.

        Raises:
            StackStopFailed: a process survived SIGKILL for KILL_TIMEOUT_S.
        """
        state = self.state
        kept = processes.with_descendants(others)
        processes.kill_stack(state.stack_id, state.head_pid, KILL_TIMEOUT_S, kept)
        if self._head is not None:
            self._head.wait(timeout=KILL_TIMEOUT_S)

    def _restart_head(self, others: Iterable[psutil.Process]) -> None:
        self.kill_head(others)
        state = self.state
        # Ray takes a living node for a living head where this file names the head's address.
        (state.temp_dir / "r" / "ray_current_cluster").unlink(missing_ok=True)
        head = self._spawn(state.temp_dir, state.ports, state.stack_id)
        self._head = head
        self._state = replace(
            state, head_pid=head.pid, head_created_s=psutil.Process(head.pid).create_time()
        )
        write_state(self._folder, self._state)
        self._wait_ready(head, state.ports, self.token_path.read_text(encoding="utf-8"))

    def stop(self) -> None:
        """End every process of the cluster, at once; nothing acknowledged is lost by that.

        For a graceful end of the app call `serve_app.undeploy` before. Ray's logs are kept in
        `<state_dir>/ray/logs`. Stopping what is stopped already does nothing.

        Raises:
            StackStopFailed: a process survived SIGKILL for KILL_TIMEOUT_S.
        """
        state = self._state
        if state is None:
            return
        processes.kill_stack(state.stack_id, state.head_pid, KILL_TIMEOUT_S)
        if self._head is not None:
            self._head.wait(timeout=KILL_TIMEOUT_S)
            self._head = None
        for node in self._nodes:
            node.wait(timeout=KILL_TIMEOUT_S)
        self._nodes.clear()
        self._keep_logs(state.temp_dir)
        shutil.rmtree(state.temp_dir, ignore_errors=True)
        ray_state.remove(self._folder)
        self._state = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _refuse_second(self) -> None:
        """A live cluster is refused; the remains of a dead one are cleared away."""
        old = read_state(self._folder)
        if old is None:
            return
        if processes.is_same(old.head_pid, old.head_created_s):
            raise StackRunning(
                f"{self._folder.parent}: Ray already runs here (pid {old.head_pid})",
                hint=f"moonlark down --state-dir {self._folder.parent}",
            )
        self._state = old
        self.stop()

    def _spawn(self, temp_dir: Path, ports: RayPorts, stack_id: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
        command += [
            f"--port={ports.gcs}",
            f"--temp-dir={temp_dir / 'r'}",
            "--dashboard-host=127.0.0.1",
            f"--dashboard-port={ports.dashboard}",
            f"--dashboard-agent-listen-port={ports.dashboard_agent_http}",
            f"--dashboard-agent-grpc-port={ports.dashboard_agent_grpc}",
            f"--runtime-env-agent-port={ports.runtime_env_agent}",
            f"--node-manager-port={ports.node_manager}",
            f"--object-manager-port={ports.object_manager}",
            f"--ray-client-server-port={ports.ray_client}",
            f"--metrics-export-port={ports.metrics_export}",
            f"--object-store-memory={self._object_store_bytes}",
            f"--num-cpus={(os.cpu_count() or 1) if self._num_cpus is None else self._num_cpus}",
            "--disable-usage-stats",
        ]
        client = client_environment(ports, temp_dir, self.token_path)
        extra = {**self._extra_env, processes.STACK_ID_VARIABLE: stack_id}
        return self._run(command, head_environment(os.environ, client, extra), self.log_path)

    def _run(
        self, command: list[str], environment: dict[str, str], log_path: Path
    ) -> subprocess.Popen[bytes]:
        with log_path.open("ab") as file:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=self._cwd,
                start_new_session=True,
            )

    def _wait_ready(self, head: subprocess.Popen[bytes], ports: RayPorts, token: str) -> None:
        url = f"http://{LOOPBACK}:{ports.dashboard}/api/jobs/"
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if head.poll() is not None:
                raise self._start_failure(f"ray start ended with {head.returncode}")
            # The raylet and the agent, which runs the jobs, come up after the dashboard.
            if local_http.get(url, token=token) is not None and all(
                accepts(port) for port in (ports.node_manager, ports.dashboard_agent_http)
            ):
                return
            time.sleep(READY_POLL_S)
        raise self._start_failure(f"Ray's Jobs API did not answer within {START_TIMEOUT_S:.0f} s")

    def _start_failure(self, what: str) -> StackStartFailed:
        tail = self.log_path.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace")
        return StackStartFailed(f"{what}\n{tail}", hint=f"read {self.log_path}")

    def _keep_logs(self, temp_dir: Path) -> None:
        """Ray's logs of the last run, for whoever asks what went wrong."""
        logs = self._folder / "logs"
        shutil.rmtree(logs, ignore_errors=True)
        for session in sorted((temp_dir / "r").glob("session_2*")):
            if (session / "logs").is_dir():
                shutil.move(session / "logs", logs)
                return


def _try_starts(start: Callable[[], None]) -> None:
    for left in reversed(range(HEAD_STARTS)):
        try:
            return start()
        except StackStartFailed as error:
            if not left:
                raise
            log.warning("the head ended as it started, it is started again: %s", error)
