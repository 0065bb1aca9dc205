"""A clock that a drill can step: one replica's, by its pid."""

import os
import time
from functools import lru_cache
from pathlib import Path

CLOCKS_VARIABLE = "MOONLARK_DRILL_CLOCKS"


def stepped_clock_ms() -> int:
    """Milliseconds since 1970 UTC, as far off as this process was told to be."""
    try:
        off_ms = int(_own_file().read_text())
    except (FileNotFoundError, NotADirectoryError):
        off_ms = 0
    return time.time_ns() // 1_000_000 + off_ms


def step_clock(folder: Path, pid: int, off_ms: int) -> None:
    """From now on the clock of replica `pid` is off by `off_ms`."""
    clocks = folder / "clocks"
    clocks.mkdir(exist_ok=True)
    new = clocks / f"{pid}.new"
    new.write_text(str(off_ms))
    os.replace(new, clocks / str(pid))


@lru_cache(maxsize=1)
def _own_file() -> Path:
    return Path(os.environ.get(CLOCKS_VARIABLE, os.devnull)) / str(os.getpid())
