"""Find and end the processes of one stack, and no others.

Ray starts some children in sessions of their own (jobs), HAProxy outlives its parent, and some of
Ray's processes overwrite their environment with their title, so that no one mark finds all. A
process belongs to a stack if its environment carries the stack's id, if it is in the head's
session together with such a process (a session id alone could be a reused pid), or if it descends
from one of these. (Measured with an app and a job running, and after a kill -9 of the head.)
"""

import contextlib
import os
import time
from collections.abc import Container, Iterable

import psutil

from infra.stack.errors import StackStopFailed

STACK_ID_VARIABLE = "MOONLARK_STACK_ID"
POLL_S = 0.05


def _environment_mark(process: psutil.Process) -> str | None:
    try:
        mark = process.environ().get(STACK_ID_VARIABLE)
    except (psutil.Error, OSError):
        return None
    return None if mark is None else str(mark)


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


def find(stack_id: str, head_pid: int) -> list[psutil.Process]:
    """Live processes of the stack (zombies are left out: they only wait for their parent)."""
    own = {os.getpid(), os.getppid()}
    others = [process for process in psutil.process_iter() if process.pid not in own]
    found = {p.pid: p for p in others if _environment_mark(p) == stack_id}
    if any(_session(pid) == head_pid for pid in found):
        found.update((p.pid, p) for p in others if _session(p.pid) == head_pid)
    for process in list(found.values()):
        with contextlib.suppress(psutil.Error):
            for child in process.children(recursive=True):
                found.setdefault(child.pid, child)
    return [process for process in found.values() if _is_live(process)]


def _is_live(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def kill_all(processes: Iterable[psutil.Process]) -> None:
    """SIGKILL each; one that is gone already is no error."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()


def kill_stack(stack_id: str, head_pid: int, timeout_s: float, kept: Container[int] = ()) -> None:
    """SIGKILL to all of a stack but the pids `kept`. More than one round: what the first one missed
    may have been forked meanwhile.

    Raises:
        StackStopFailed: one survived for `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    while left := [process for process in find(stack_id, head_pid) if process.pid not in kept]:
        kill_all(left)
        if time.monotonic() >= deadline:
            pids = sorted(process.pid for process in left)
            raise StackStopFailed(f"processes {pids} survive SIGKILL", hint="look at them: ps")
        time.sleep(POLL_S)


def with_descendants(roots: Iterable[psutil.Process]) -> set[int]:
    """Their pids, and those of all that they have started by now."""
    pids = set()
    for root in roots:
        pids.add(root.pid)
        try:
            pids |= {child.pid for child in root.children(recursive=True)}
        except psutil.NoSuchProcess:
            continue
    return pids


def wait_gone(pid: int, created_s: float, timeout_s: float) -> bool:
    """Wait until the process (pid and creation time: pids are reused) has ended."""
    deadline = time.monotonic() + timeout_s
    while is_same(pid, created_s):
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_S)
    return True


def is_same(pid: int, created_s: float) -> bool:
    """Whether the live process `pid` is the one that was created at `created_s`."""
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - created_s) < 1.0
    except psutil.Error:
        return False
    return same and _is_live(process)
