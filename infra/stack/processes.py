"""Find and end the processes of one stack, and no others.

Ray starts some children in sessions of their own, HAProxy outlives its parent, and Ray workers
overwrite their argv (and the environment behind it), so that no one mark finds all. A process
belongs to a stack if its environment carries the stack's id, if its command line names the
stack's temp dir (which is unique to it), if it is in the session of the head, or if it descends
from such a process.
"""

import contextlib
import os
import time
from collections.abc import Iterable

import psutil

STACK_ID_VARIABLE = "MOONLARK_STACK_ID"
POLL_S = 0.05


def _environment_mark(process: psutil.Process) -> str | None:
    try:
        mark = process.environ().get(STACK_ID_VARIABLE)
    except (psutil.Error, OSError):
        return None
    return None if mark is None else str(mark)


def _command_line(process: psutil.Process) -> str:
    try:
        return "\0".join(process.cmdline())
    except (psutil.Error, OSError):
        return ""


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


def find(stack_id: str, temp_dir: str, head_pid: int | None) -> list[psutil.Process]:
    """Live processes of the stack (zombies are left out: they only wait for their parent)."""
    found: dict[int, psutil.Process] = {}
    own = {os.getpid(), os.getppid()}
    for process in psutil.process_iter():
        if process.pid in own:
            continue
        belongs = (
            _environment_mark(process) == stack_id
            or temp_dir in _command_line(process)
            or (head_pid is not None and _session(process.pid) == head_pid)
        )
        if belongs:
            found[process.pid] = process
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
