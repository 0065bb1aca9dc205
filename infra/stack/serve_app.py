"""Put a Serve app on a running LocalRay, look at it, take it away; each from a process of its own.

Serve reads its settings when it is imported, so they must be in the environment before: the
work is done by `infra.stack.serve_driver` as a child process with `LocalRay.env`, and the
caller's process needs no Ray. The app stays when the child ends.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from infra.stack import local_http
from infra.stack.errors import StackStartFailed
from infra.stack.ray_cluster import LocalRay

DEPLOY_TIMEOUT_S = 300.0
UNDEPLOY_TIMEOUT_S = 30.0
POLL_S = 0.1


def deploy(
    cluster: LocalRay,
    app_import_path: str,
    *,
    args: Mapping[str, Any] | None = None,
    name: str = "moonlark",
    route_prefix: str = "/",
    env: Mapping[str, str] | None = None,
    timeout_s: float = DEPLOY_TIMEOUT_S,
) -> str:
    """Deploy `module:attribute` and wait until its replicas are healthy and HTTP is routed.

    Args:
        app_import_path: a bound Serve application, or a function that takes `args` (a dict) and
            returns one.
        name, route_prefix: of the application; others that are deployed stay.
        env: environment of the deploying process and of the replicas, on top of what the cluster
            was started with (LocalRay's extra_env).

    Returns:
        The base URL.

    Raises:
        StackStartFailed: with the end of what the deploying process printed.
    """
    command = ["deploy", app_import_path, "--name", name, "--http-port", str(cluster.http_port)]
    command += ["--route-prefix", route_prefix]
    command += ["--args", json.dumps(dict(args or {})), "--env", json.dumps(dict(env or {}))]
    _run_driver(cluster, command, timeout_s, env or {})
    _wait_routed(cluster, name, timeout_s)
    return cluster.http_url


def undeploy(cluster: LocalRay, *, timeout_s: float = UNDEPLOY_TIMEOUT_S) -> None:
    """Shut Serve down gracefully: replicas finish requests and flush; then HAProxy ends.

    Raises:
        StackStartFailed: the shutdown did not end in time; `LocalRay.stop()` still ends it.
    """
    _run_driver(cluster, ["undeploy"], timeout_s, {})


def _run_driver(
    cluster: LocalRay, command: Sequence[str], timeout_s: float, env: Mapping[str, str]
) -> None:
    arguments = [sys.executable, "-m", "infra.stack.serve_driver", *command]
    try:
        done = subprocess.run(
            arguments,
            env={**os.environ, **cluster.env, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise _failure(command, f"not done in {timeout_s:.0f} s", error.output or b"") from error
    if done.returncode != 0:
        raise _failure(command, f"exit status {done.returncode}", done.stdout)


def _failure(command: Sequence[str], what: str, output: bytes) -> StackStartFailed:
    tail = output[-4_000:].decode(errors="replace")
    return StackStartFailed(
        f"serve_app {command[0]}: {what}\n{tail}",
        hint="read the replicas' logs: <temp_dir of state.json>/r/session_latest/logs/serve",
    )


def _wait_routed(cluster: LocalRay, name: str, timeout_s: float) -> None:
    """HAProxy learns of healthy replicas a moment after serve.run() returns."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        # {"<route prefix>": "<app>"} once HAProxy knows the app, {} before.
        routes = local_http.get(f"{cluster.http_url}/-/routes")
        if routes is not None and name in json.loads(routes).values():
            return
        time.sleep(POLL_S)
    raise _failure(["deploy"], f"{cluster.http_url} routes nothing after {timeout_s:.0f} s", b"")
