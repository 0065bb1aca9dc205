"""Which processes of a drill's stack are what. Only processes of that stack are ever named."""

import contextlib
import os
import signal
import time
from collections.abc import Callable

import psutil

from infra.drills.stack import DrillStack
from infra.stack import processes
from sql import generations
from sql.engine import read_snapshot

RECOVERY_TIMEOUT_S = 300.0
POLL_S = 0.1


def of_stack(stack: DrillStack, is_it: Callable[[list[str]], bool]) -> list[psutil.Process]:
    """Processes of the stack whose command line `is_it` says yes to."""
    state, found = stack.cluster.state, []
    for process in processes.find(state.stack_id, state.head_pid):
        with contextlib.suppress(psutil.Error):
            if is_it(process.cmdline()):
                found.append(process)
    return found


def proxies(stack: DrillStack) -> list[psutil.Process]:
    """HAProxy: one, or two for as long as a reload takes."""
    return of_stack(stack, lambda line: bool(line) and os.path.basename(line[0]) == "haproxy")


def controllers(stack: DrillStack) -> list[psutil.Process]:
    """Serve's controller; Ray writes the method that it runs behind its name."""
    return of_stack(stack, lambda line: bool(line) and line[0].startswith("ray::ServeController"))


def gcs(stack: DrillStack) -> list[psutil.Process]:
    """The cluster's metadata server."""
    return of_stack(stack, lambda line: bool(line) and os.path.basename(line[0]) == "gcs_server")


def family(node: psutil.Process) -> list[psutil.Process]:
    """A node's processes: `ray start` and all that descend from it."""
    try:
        return [node, *node.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def gateways(stack: DrillStack, *, living: bool = True) -> dict[int, str]:
    """pid -> replica id of the gateway replicas that hold a fresh lease, and live if so asked."""
    with read_snapshot(stack.engine) as conn:
        leases = generations.fresh_replicas(conn)
    # A replica id is HOST-PID-RANDOM (serve.day); the host may have dashes, too.
    named = {int(lease.replica_id.split("-")[-2]): lease.replica_id for lease in leases}
    if not living:
        return named
    pids = {process.pid for process in of_stack(stack, lambda _: True)}
    return {pid: replica_id for pid, replica_id in named.items() if pid in pids}


def kill(process: psutil.Process) -> None:
    """kill -9."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGKILL)


def wait_for(what: str, is_so: Callable[[], bool], timeout_s: float = RECOVERY_TIMEOUT_S) -> float:
    """Seconds until `is_so`.

    Raises:
        TimeoutError: it was not so within `timeout_s`.
    """
    started_s = time.monotonic()
    while not is_so():
        if time.monotonic() - started_s > timeout_s:
            raise TimeoutError(f"{what}: not within {timeout_s:.0f} s")
        time.sleep(POLL_S)
    return time.monotonic() - started_s
