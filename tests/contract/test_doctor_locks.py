"""`moonlark doctor` on Postgres: who holds up the others, also where it lets go now and then."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from sqlalchemy import Engine

from infra.doctor.store import look_at_store


@contextmanager
def holds(url: str, again_every_s: float) -> Iterator[int]:
    """A session that takes a lock, dreams, lets go, takes it again; and one that waits for it."""
    ending = threading.Event()
    dreamer, waiter = psycopg.connect(url), psycopg.connect(url, autocommit=True)

    def dream() -> None:
        while not ending.is_set():
            dreamer.execute("LOCK TABLE users IN EXCLUSIVE MODE")
            ending.wait(again_every_s)
            dreamer.commit()

    def wait() -> None:
        while not ending.is_set():
            waiter.execute("DELETE FROM users WHERE user_key = -1")

    threads = [threading.Thread(target=each) for each in (dream, wait)]
    with dreamer, waiter:
        for thread in threads:
            thread.start()
        try:
            yield dreamer.info.backend_pid
        finally:
            ending.set()
            for thread in threads:
                thread.join()


@pytest.mark.parametrize("backend", ["postgres"])
@pytest.mark.parametrize("again_every_s", [60.0, 1.5])
def test_a_session_that_others_wait_for_is_told(engine: Engine, again_every_s: float) -> None:
    url = engine.url.set(drivername="postgresql").render_as_string(False)
    with holds(url, again_every_s) as pid:
        said = [finding.what for finding in look_at_store(engine).findings]
    assert any(f"session {pid} holds a lock" in what for what in said)
