"""What a drill needs to stop one thread of a replica: that one stops, the others go on."""

import subprocess
import sys
from collections import deque
from collections.abc import Iterator

import pytest

from infra.drills.stopped_thread import StoppedThread, threads_named

TWO = """
import os, time
from serve.periodic import Periodic
for name in ("one", "generation-watch"):
    Periodic(name, 0.25, lambda name=name: os.write(1, f"{name}\\n".encode())).start()
time.sleep(60)
"""


@pytest.fixture
def process() -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen([sys.executable, "-c", TWO], stdout=subprocess.PIPE, text=True) as made:
        yield made
        made.kill()


def soon_only(process: "subprocess.Popen[str]", *names: str) -> bool:
    """Whether 8 lines running are these and nothing else, among the next 1,000."""
    assert process.stdout is not None
    last: deque[str] = deque(maxlen=8)
    for _ in range(1_000):
        last.append(process.stdout.readline().strip())
        if len(last) == last.maxlen and set(last) == set(names):
            return True
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="ptrace is Linux's")
def test_the_named_thread_stops_and_goes_on_and_a_kill_takes_it_too(
    process: "subprocess.Popen[str]",
) -> None:
    assert soon_only(process, "one", "generation-watch")
    (thread_id,) = threads_named(process.pid, "generation-watch")
    try:
        stopped = StoppedThread(thread_id)
    except PermissionError:
        pytest.skip("this process may trace no other")
    assert soon_only(process, "one")
    stopped.go_on()
    assert soon_only(process, "one", "generation-watch")
    stopped = StoppedThread(thread_id)
    process.kill()
    assert process.wait(10) != 0
    assert threads_named(process.pid, "generation-watch") == []
    stopped.go_on()
