"""Folders in memory, for what must outlive processes and not the machine.

A drill kills processes. What a process synced to a file in memory is there for the next one as on a
disk, and costs no wait on a disk that is busy with other tests.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
LEAST_FREE_BYTES = 1 << 28
"""A container may have 64 MB there."""
STORAGE_PATH = "RAY_gcs_storage_path"


def memory_folder() -> Path | None:
    """A folder in memory that may be written to, and has room; None where there is none."""
    if not os.access(SHARED_MEMORY, os.W_OK):
        return None
    return SHARED_MEMORY if shutil.disk_usage(SHARED_MEMORY).free > LEAST_FREE_BYTES else None


@contextmanager
def kept_gcs() -> Iterator[dict[str, str]]:
    """Ray's settings for a GCS that keeps what it knows, so that a head which is started again
    knows its cluster.

    The GCS syncs each of its some fifty first writes (rocksdb's WAL) while its own node waits to be
    known, 30 s at most: syncs of 1.5 s make its start 94 s long instead of 5.
    """
    with tempfile.TemporaryDirectory(
        prefix="moonlark-gcs-", dir=memory_folder(), ignore_cleanup_errors=True
    ) as folder:
        yield {"RAY_gcs_storage": "rocksdb", STORAGE_PATH: f"{folder}/gcs"}
