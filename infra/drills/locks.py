"""Faults of the database: a session that holds a lock which others wait for."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress

import psycopg

from infra.drills.ward import Ward

DREAM_S = 1.6
"""Shorter than the ward's statement timeout: whoever waits is slow, and none fails."""


def locked(table: str, mode: str) -> Callable[[Ward], Callable[[], None]]:
    """A session that began a change and was forgotten."""

    def inject(ward: Ward) -> Callable[[], None]:
        url = ward.stack.database_url.replace("+psycopg", "", 1)
        forgotten = psycopg.connect(url)
        forgotten.execute(f"LOCK TABLE {table} IN {mode} MODE")
        return forgotten.close

    return inject


def locked_again_and_again(table: str, mode: str) -> Callable[[Ward], Callable[[], None]]:
    """A session that takes a lock, dreams and lets go, again and again: until it is ended."""

    def inject(ward: Ward) -> Callable[[], None]:
        dreamer = psycopg.connect(ward.stack.database_url.replace("+psycopg", "", 1))

        def dream() -> None:
            with suppress(psycopg.Error):
                while True:
                    dreamer.execute(f"LOCK TABLE {table} IN {mode} MODE")
                    time.sleep(DREAM_S)
                    dreamer.commit()

        thread = threading.Thread(target=dream, name="dreamer", daemon=True)
        thread.start()

        def awake() -> None:
            dreamer.close()
            thread.join(10)

        return awake

    return inject
