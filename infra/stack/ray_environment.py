"""The ports, paths and environment of one local Ray cluster.

All of it must be set before Ray starts, and the same in every driver: Ray reads these variables
when its modules are imported. Sources: ray/serve/_private/constants.py and
ray/_private/authentication of Ray 2.60.0.
"""

import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from infra.stack.errors import PathTooLong, PortTaken
from infra.stack.haproxy import WRAPPER_NAME, write_wrapper
from infra.stack.ports import LOOPBACK, find_free_run, is_free

INGRESS_PORTS = 64

READ_TIMEOUT_S = 30
"""A client that reads nothing of its answer for so long is left by HAProxy (by default an hour): it
holds a replica's place."""
"""Ports for replicas' own HTTP listeners; a released one rests (hard stop + 30 s) before reuse."""
NODE_ID_CHARACTERS = 56
"""Serve puts its HAProxy files in a folder named for the Ray node id."""
MAX_SOCKET_PATH = 97
"""HAProxy binds `path.<pid>.tmp` first, which must fit in the 108 bytes of sun_path."""
SETUP_HOOK_VARIABLE = "__RAY_WORKER_PROCESS_SETUP_HOOK_ENV_VAR"
"""Ray's own name for it; a job's `worker_process_setup_hook` would take its place."""
SETUP_HOOK = "infra.stack.loopback.bind_grpc_to_loopback"
TEMP_PREFIX = "mlk-"


@dataclass(frozen=True, slots=True)
class RayPorts:
    """Every port that the cluster listens on, apart from Ray workers' own (ephemeral) ones."""

    http: int
    gcs: int
    dashboard: int
    dashboard_agent_http: int
    dashboard_agent_grpc: int
    runtime_env_agent: int
    node_manager: int
    object_manager: int
    ray_client: int
    metrics_export: int
    autoscaler_metrics: int
    dashboard_metrics: int
    haproxy_metrics: int
    haproxy_stats: int
    fallback_http: int
    fallback_grpc: int
    ingress_http_first: int
    ingress_grpc_first: int

    @classmethod
    def choose(cls, http_port: int) -> "RayPorts":
        """`http_port` as asked (0: a free one), all others from one free run.

        Raises:
            PortTaken: something listens on `http_port`; HAProxy would say so only at deploy.
            NoFreePorts: no free run was found.
        """
        if http_port and not is_free(http_port):
            raise PortTaken(
                f"HTTP port {http_port} is taken", hint="ss -ltnp shows by whom; or another port"
            )
        names = [name for name in cls.__dataclass_fields__ if name != "http"][:-2]
        base = find_free_run(1 + len(names) + 2 * INGRESS_PORTS)
        single = {name: base + 1 + index for index, name in enumerate(names)}
        first_ingress = base + 1 + len(names)
        return cls(
            http=http_port or base,
            ingress_http_first=first_ingress,
            ingress_grpc_first=first_ingress + INGRESS_PORTS,
            **single,
        )

    def to_json(self) -> dict[str, int]:
        return asdict(self)


def make_temp_dir() -> Path:
    """A short, private folder for Ray's session and HAProxy's files, with the HAProxy wrapper.

    Raises:
        PathTooLong: HAProxy's sockets would not fit there.
    """
    temp_dir = Path(tempfile.mkdtemp(prefix=TEMP_PREFIX))
    longest = len(str(temp_dir / "hap")) + 1 + NODE_ID_CHARACTERS + len("/metrics.sock")
    if longest > MAX_SOCKET_PATH:
        temp_dir.rmdir()
        raise PathTooLong(
            f"{temp_dir}: a socket path there has {longest} characters, {MAX_SOCKET_PATH} fit",
            hint="set TMPDIR to a shorter path, such as /tmp",
        )
    write_wrapper(temp_dir)
    return temp_dir


def client_environment(ports: RayPorts, temp_dir: Path, token_path: Path) -> dict[str, str]:
    """What a driver, a job client or a shell needs in order to talk to this cluster."""
    hap = temp_dir / "hap"
    return {
        "RAY_ADDRESS": f"{LOOPBACK}:{ports.gcs}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_path),
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray's default is 15: whatever else runs on the machine would come before the replicas, and
        # the night's own niceness, which counts from there, would hardly be one.
        "RAY_worker_niceness": "0",
        # `ray start` turns 127.0.0.1 into the outward address, and then GCS, raylet and workers
        # listen on all interfaces. With this switch (made for macOS, read by services.py
        # get_node_ip_address on every system) the node is 127.0.0.1 and they stay on it.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # serve_driver starts Serve there; a server of which this is not said asks for API keys.
        "MOONLARK_HTTP_HOST": LOOPBACK,
        "MOONLARK_RAY_JOBS_URL": f"http://{LOOPBACK}:{ports.dashboard}",
        # Both together or neither: throughput mode under the Python proxy has a race (ANCHORS).
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(temp_dir / WRAPPER_NAME),
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": str(READ_TIMEOUT_S),
        "RAY_SERVE_HAPROXY_NBTHREAD": str(max(1, min(4, (os.cpu_count() or 1) // 2))),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(hap / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(hap / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(hap / "metrics.sock"),
        # Nobody listens there: its lines carry paths, and paths name users (the default is the
        # machine's syslog).
        "RAY_SERVE_HAPROXY_LOG_TARGET": str(hap / "no-log.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(hap),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(hap / "server-state"),
        "AUTOSCALER_METRIC_PORT": str(ports.autoscaler_metrics),
        "DASHBOARD_METRIC_PORT": str(ports.dashboard_metrics),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(ports.haproxy_metrics),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(ports.haproxy_stats),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(ports.fallback_http),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(ports.fallback_grpc),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(ports.ingress_http_first),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(ports.ingress_http_first + INGRESS_PORTS),
        "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(ports.ingress_grpc_first),
        "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(ports.ingress_grpc_first + INGRESS_PORTS),
        # One machine, no load balancer to wait for: the defaults (30 s, 30 s, 120 s) are for one.
        # HAProxy leaves a replica within two health checks of 0.25 s once it says that it drains.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "3",
        "RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S": "3",
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "20",
        # A HAProxy that died is replaced after three failed checks: 30 s by default, here 3 s and
        # the start. A replica that is frozen is left after two checks: 10 s by default, here 4 s.
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
        # Three times 5 s by default, in which a busy machine may not have started it; it is killed.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "20",
        "RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER": "2s",
        # Serve's actor reads a line of each request, also of each refused one: an eighth of a core
        # under overload. HAProxy's own exporter counts them all the same.
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        # Line and headers of a request: a thousand `exclude` of a list are more than its 16 kB.
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": "65536",
    }


def head_environment(
    inherited: Mapping[str, str], client: Mapping[str, str], extra: Mapping[str, str]
) -> dict[str, str]:
    """The environment of `ray start`, which jobs and replicas inherit.

    The interpreter's folder comes first in PATH, so that a job's `python` is this one.
    """
    interpreter_folder = str(Path(sys.executable).parent)
    path = inherited.get("PATH", os.defpath)
    environment = {**inherited, **client, **extra}
    environment[SETUP_HOOK_VARIABLE] = SETUP_HOOK
    environment["PATH"] = f"{interpreter_folder}{os.pathsep}{path}"
    # A token in the environment would win over the file; an address would make the head a driver.
    for name in ("RAY_AUTH_TOKEN", "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        environment.pop(name, None)
    return environment
