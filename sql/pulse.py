"""A Postgres that hangs counts as gone, and soon.

A stopped server, or a network that drops packets, breaks no connection: whoever asked would wait
for as long as TCP does. `Pulse` asks for nothing (`SELECT 1`, which waits for no lock) on a
connection of its own. Without an answer within `patience_s` it cuts every connection of the engine,
so that whoever waits on one has an error, and refuses new ones at once, until the answer comes.

A server that refuses by itself (killed, or full) is left to the errors that it causes.
"""

import contextlib
import logging
import os
import select
import socket
import threading
import time
from typing import Any

import psycopg
from sqlalchemy import Engine, event

from sql.errors import StoreUnavailable
from sql.transactions import shown

log = logging.getLogger(__name__)

INTERVAL_S = 1.0
PATIENCE_S = 3.0
"""At least 2: libpq gives a connection attempt no less."""


class Pulse:
    """A thread that feels the pulse of `engine`'s database. Nothing to do on SQLite."""

    def __init__(
        self, engine: Engine, *, interval_s: float = INTERVAL_S, patience_s: float = PATIENCE_S
    ) -> None:
        self._engine = engine
        self._interval_s, self._patience_s = interval_s, patience_s
        self._hangs = False
        self._own: psycopg.Connection[Any] | None = None
        self._lock = threading.Lock()
        self._open: dict[int, Any] = {}
        """By id, the driver's connections: none is closed while it is cut, as its number may be
        another's by then."""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    def start(self) -> None:
        """Begin to feel. To be called before others use the engine."""
        if self._engine.dialect.name != "postgresql":
            return
        self._engine.dispose()  # what was open before is not known here
        event.listen(self._engine, "do_connect", self._refuse)
        # Before the engine's own checks of a connection, which may be what hangs.
        event.listen(self._engine, "connect", self._opened, insert=True)
        event.listen(self._engine, "close", self._closing)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def _refuse(self, *_: object) -> None:
        if self._hangs:
            raise StoreUnavailable(
                shown(self._engine), f"it hangs: no answer within {self._patience_s:g} s"
            )

    def _opened(self, connection: Any, _record: object) -> None:
        with self._lock:
            self._open[id(connection)] = connection

    def _closing(self, connection: Any, _record: object) -> None:
        with self._lock:
            self._open.pop(id(connection), None)

    def _run(self) -> None:
        while not self._stopping.wait(self._interval_s):
            try:
                hangs = not self._beats()
            except Exception:  # a bug of ours: without this thread a hanging database hangs us
                log.exception("could not feel the database's pulse")
                continue
            if hangs != self._hangs:
                told = "hangs: connections are cut" if hangs else "answers again"
                log.warning("the database %s", told)
            self._hangs = hangs
            if hangs:
                self._cut()
        self._let_go()

    def _beats(self) -> bool:
        """False: no answer within the patience. An error is an answer."""
        try:
            if self._own is None:
                self._own = self._connect()
            if self._answers(self._own):
                return True
        except psycopg.errors.ConnectionTimeout:
            return False
        except psycopg.Error:  # it refuses: whoever needs it is told so
            self._let_go()
            return True
        self._let_go()
        return False

    def _connect(self) -> psycopg.Connection[Any]:
        _, options = self._engine.dialect.create_connect_args(self._engine.url)
        patience_s = max(2, int(self._patience_s))
        return psycopg.connect(**{**options, "connect_timeout": patience_s, "autocommit": True})

    def _answers(self, connection: psycopg.Connection[Any]) -> bool:
        raw = connection.pgconn
        raw.send_query(b"SELECT 1")
        poll, until_s = select.poll(), time.monotonic() + self._patience_s
        poll.register(raw.socket, select.POLLIN)
        while True:
            while not raw.is_busy():
                if raw.get_result() is None:
                    return True
            if not poll.poll(max(0.0, until_s - time.monotonic()) * 1000):
                return False
            raw.consume_input()

    def _cut(self) -> None:
        with self._lock:
            for connection in self._open.values():
                with (
                    contextlib.suppress(psycopg.Error, OSError),
                    socket.socket(fileno=os.dup(connection.fileno())) as shared,
                ):
                    shared.shutdown(socket.SHUT_RDWR)

    def _let_go(self) -> None:
        own, self._own = self._own, None
        if own is not None:
            own.pgconn.finish()  # without a farewell, which a full buffer would hold up
