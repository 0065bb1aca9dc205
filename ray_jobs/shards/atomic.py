"""Whole files or none: a temporary file, fsync, rename, fsync of the folder.

A reader never sees half a file, and after a power loss the name points at the old bytes or at the
new ones. A killed writer leaves a file named `.tmp-…` that nothing reads and the next attempt of
the same writer may leave beside it; `manifest.write_manifest` ignores and never lists them.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TEMPORARY_PREFIX = ".tmp-"


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on leaving it becomes `path`, durably.

    The folder is made when absent. If the body raises, the temporary file is removed and `path`
    keeps its old bytes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}-{path.name}")
    try:
        yield temporary
        _sync(temporary, os.O_RDWR)
        os.replace(temporary, path)
        _sync(path.parent, os.O_RDONLY)
    finally:
        temporary.unlink(missing_ok=True)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
