"""Disks that fail: the n-th write of a database, or of the files of a night.

`FailingWrites` counts the statements and commits of an engine (SQLite through its own connection
class, so that the shipped code sees what the sqlite3 module raises) and lets one fail. At a commit
it may fail before, or after: then it is in force, and nobody is told.
`failing_files` does the same for fsync, rename and the opening of files by Python, below a folder.
What C++ writes (faiss, Arrow) goes by `full_disk`.
"""

import builtins
import errno
import io
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

from sqlalchemy import Engine, event

Where = Literal["statement", "commit", "after the commit"]


class FailingWrites:
    """Of one engine. `arm(n, where)`: the n-th of those fails, then all is well again."""

    def __init__(self, engine: Engine) -> None:
        self._left = 0
        self._where: Where = "statement"
        self.failed = 0
        counter = self

        class Cursor(sqlite3.Cursor):
            def execute(self, sql: str, parameters: Any = (), /) -> Any:
                counter._count_statement()
                return super().execute(sql, parameters)

            def executemany(self, sql: str, parameters: Any, /) -> Any:
                counter._count_statement()
                return super().executemany(sql, parameters)

        class Connection(sqlite3.Connection):
            def cursor(self, factory: Any = Cursor) -> Any:
                return super().cursor(factory)

            def commit(self) -> None:
                if counter._is_due("commit"):
                    raise counter._error()
                super().commit()
                if counter._is_due("after the commit"):
                    raise counter._error()

        # The driver's own classes: what goes past SQLAlchemy (`sql.quick_snapshot`) counts as well.
        @event.listens_for(engine, "do_connect")
        def _connect(_d: Any, _r: Any, _args: Any, parameters: dict[str, Any]) -> None:
            parameters["factory"] = Connection

        engine.dispose()  # connections made before know nothing of this

    def arm(self, number: int, where: Where) -> None:
        """The `number`-th from now on fails."""
        self._left, self._where, self.failed = number, where, 0

    def _count_statement(self) -> None:
        if self._is_due("statement"):
            raise self._error()

    def _is_due(self, where: Where) -> bool:
        if where != self._where or self._left < 1 or not _is_a_request():
            return False
        self._left -= 1
        return self._left == 0

    def _error(self) -> sqlite3.OperationalError:
        self.failed += 1
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorname = "SQLITE_IOERR"
        return error


def _is_a_request() -> bool:
    """Whether a route waits for this: the replica's own threads (watch, leases) are spared, or a
    fault meant for a request would hit one of them by chance."""
    return threading.current_thread().name.startswith(("asyncio", "AnyIO", "lists"))


class FileFaults:
    """What `failing_files` counts: `calls` so far, and how often one `failed`."""

    def __init__(self, number: int) -> None:
        self._number = number
        self.calls = 0
        self.failed = 0

    def count(self) -> None:
        """One more call. Raises OSError (EIO) where it is the one."""
        self.calls += 1
        if self.calls == self._number:
            self.failed += 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))


@contextmanager
def failing_files(folder: Path, number: int) -> Iterator[FileFaults]:
    """The `number`-th fsync, rename or opening for writing below `folder` fails; 0: none does."""
    faults = FileFaults(number)
    below = str(folder)

    def counted(shipped: Callable[..., Any], is_ours: Callable[..., bool]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            if is_ours(*args, **more):
                faults.count()
            return shipped(*args, **more)

        return call

    def writes(path: Any, mode: str = "r", *_: Any, **__: Any) -> bool:
        named = isinstance(path, str | os.PathLike) and os.fspath(path).startswith(below)
        return bool(named) and any(letter in mode for letter in "wax+")

    def of_folder(descriptor: int) -> bool:
        return bool(os.readlink(f"/proc/self/fd/{descriptor}").startswith(below))

    def renames(source: Any, *_: Any, **__: Any) -> bool:
        return str(os.fspath(source)).startswith(below)

    with (
        patch.object(builtins, "open", counted(builtins.open, writes)),
        patch.object(io, "open", counted(io.open, writes)),  # pathlib's
        patch.object(os, "fsync", counted(os.fsync, of_folder)),
        patch.object(os, "replace", counted(os.replace, renames)),
        patch.object(os, "rename", counted(os.rename, renames)),
    ):
        yield faults
