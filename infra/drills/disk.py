"""A disk of its own for a drill: a file system in memory, of a size."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MOUNT_S = 30.0


@contextmanager
def small_disk(size: int) -> Iterator[Path | None]:
    """A folder on a disk of so many bytes; None where this process may not mount one."""
    folder = Path(tempfile.mkdtemp(prefix="moonlark-disk-"))
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(folder)]
    is_mounted = _is_done(mount)
    try:
        yield folder if is_mounted else None
    finally:
        if is_mounted and not _is_done(["umount", str(folder)]):
            _is_done(["umount", "--lazy", str(folder)])
        shutil.rmtree(folder, ignore_errors=True)


def _is_done(command: list[str]) -> bool:
    try:
        done = subprocess.run(command, check=False, capture_output=True, timeout=MOUNT_S)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
