"""The database of a simulation: real SQLite, where the baton changes hands and what can go wrong.

The baton is given away before a transaction begins and after it committed, never within one:
SQLite has one writer, and the shipped code holds its lock from BEGIN IMMEDIATE on.

    begin refused     nothing happened
    commit refused    nothing is stored
    answer lost       stored, and the caller is told that the database is gone
    slow              it begins, or answers, some time later: others overtake
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import OperationalError

from infra.simulation.scheduler import Scheduler
from sql.transactions import BEGIN_IMMEDIATE, BEGIN_OPTION

DELAYS_S = (0.005, 0.05, 0.5)


@dataclass
class Faults:
    """How likely each fault is, from 0 to 1; all 0 is a database in health."""

    slow: float = 0.0
    begin_refused: float = 0.0
    commit_refused: float = 0.0
    answer_lost: float = 0.0

    def heal(self) -> None:
        self.slow = self.begin_refused = self.commit_refused = self.answer_lost = 0.0


@contextmanager
def faulty(engine: Engine, scheduler: Scheduler, faults: Faults) -> Iterator[None]:
    """Hook the scheduler and the faults into an engine of `sql.engine.open_engine`."""
    rng, do_commit = scheduler.rng, engine.dialect.do_commit

    def pause() -> None:
        scheduler.pause()
        if rng.random() < faults.slow:
            scheduler.sleep(rng.choice(DELAYS_S))

    def take_connection(*_: Any) -> None:
        # Not the event "begin": what goes past SQLAlchemy (`sql.quick_snapshot`) has none.
        pause()
        if rng.random() < faults.begin_refused:
            scheduler.note("begin refused")
            raise OperationalError("BEGIN", None, _busy())

    def begins(connection: Connection) -> None:
        if connection.get_execution_options().get(BEGIN_OPTION) == BEGIN_IMMEDIATE:
            scheduler.note("write")

    def commit(connection: Any) -> None:
        if rng.random() < faults.commit_refused:
            scheduler.note("commit refused")
            raise sqlite3.OperationalError("disk I/O error")
        do_commit(connection)
        pause()
        if rng.random() < faults.answer_lost:
            scheduler.note("answer lost")
            raise sqlite3.OperationalError("disk I/O error")

    event.listen(engine, "checkout", take_connection)
    event.listen(engine, "begin", begins)
    engine.dialect.do_commit = commit  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        event.remove(engine, "checkout", take_connection)
        event.remove(engine, "begin", begins)
        engine.dialect.do_commit = do_commit  # type: ignore[method-assign]


def _busy() -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("database is locked")
    error.sqlite_errorname = "SQLITE_BUSY_TIMEOUT"  # as after the whole wait: not tried again
    return error
