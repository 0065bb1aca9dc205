"""The wall clock of the day's processes; everything below takes it as an argument."""

import time


def wall_clock_ms() -> int:
    """Milliseconds since 1970 UTC."""
    return time.time_ns() // 1_000_000
