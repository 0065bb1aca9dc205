"""One thread of another process stops, the others go on: as a debugger stops it (Linux, ptrace).

Threads of a replica are found by the names that `serve.periodic` tells the kernel.
"""

import ctypes
import os
import threading
import time
from contextlib import suppress
from pathlib import Path

SEIZE, INTERRUPT, DETACH = 0x4206, 0x4207, 17
ANY_THREAD = 0x40000000
"""__WALL of waitpid."""
POLL_S = 0.05
QUIET_S = 0.1
"""Who slept for so long waits for its next round: one amid its work may hold locks of others."""
WAIT_S = 30.0


def threads_named(pid: int, name: str) -> list[int]:
    """Ids of a process's threads of that name (the kernel keeps 15 characters)."""
    with suppress(FileNotFoundError):
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return [int(task.name) for task in tasks if _read(task / "comm").strip() == name[:15]]
    return []


class StoppedThread:
    """From now on that thread of another process does nothing, until `go_on`. It is stopped
    between two rounds, not amid one.

    Raises:
        OSError: there is no such thread, or the right to trace it is missing.
        TimeoutError: it was never between two rounds.
    """

    def __init__(self, thread_id: int) -> None:
        self._id = thread_id
        self._is_stopped, self._goes_on = threading.Event(), threading.Event()
        self._error: OSError | None = None  # TimeoutError is one
        # The kernel takes orders from the one thread that began to trace.
        self._tracer = threading.Thread(target=self._trace, name="tracer", daemon=True)
        self._tracer.start()
        self._is_stopped.wait()
        if self._error is not None:
            raise self._error

    def go_on(self) -> None:
        """As before; nothing where its process is gone."""
        self._goes_on.set()
        self._tracer.join(WAIT_S)

    def _trace(self) -> None:
        try:
            _wait_until_quiet(self._id)
            _ptrace(SEIZE, self._id)
            _ptrace(INTERRUPT, self._id)
            os.waitpid(self._id, ANY_THREAD)
        except OSError as error:
            self._error = error
            return
        finally:
            self._is_stopped.set()
        while not self._goes_on.wait(POLL_S):
            # A killed process is only gone when its tracer has heard of it.
            if os.waitpid(self._id, ANY_THREAD | os.WNOHANG)[0]:
                return
        with suppress(OSError):
            _ptrace(DETACH, self._id)


def _ptrace(order: int, thread_id: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    libc.ptrace.restype = ctypes.c_long
    if libc.ptrace(order, thread_id, None, None) == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"ptrace of thread {thread_id}: {os.strerror(number)}")


def _wait_until_quiet(thread_id: int) -> None:
    deadline_s = time.monotonic() + WAIT_S
    before = ""
    while (now := _sleeps(thread_id)) != before or not now:
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"thread {thread_id} was not quiet in {WAIT_S:.0f} s")
        before = now
        time.sleep(QUIET_S)


def _sleeps(thread_id: int) -> str:
    """How often it gave up the processor, while it sleeps; raises OSError where it is gone."""
    status = Path(f"/proc/{thread_id}/status").read_text()
    return status.partition("voluntary_ctxt_switches:")[2] if "S (sleeping)" in status else ""


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # it has just ended
        return ""
