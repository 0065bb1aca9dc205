"""How long a replica puts up with a deployment that does not answer.

Each request that waits for one that is gone waits its whole timeout, and holds a thread or a
connection meanwhile. So after a few in a row it is left alone, and one request a second tries.
"""

from collections.abc import Callable

MISSES_UNTIL_LEFT_ALONE = 3
"""Running, of one deployment."""

LEFT_ALONE_S = 1.0
"""Then one request asks it again, for all."""


class Patience:
    """What the replica knows of one deployment. For one loop or one thread."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._misses = 0
        self._left_alone_until_s = 0.0

    def is_asked(self) -> bool:
        """Whether to ask it now. Who was told so says afterwards how it went."""
        if self._misses < MISSES_UNTIL_LEFT_ALONE:
            return True
        if self._clock() < self._left_alone_until_s:
            return False
        self._left_alone_until_s = self._clock() + LEFT_ALONE_S  # this request alone tries
        return True

    def answered(self) -> None:
        """It is well."""
        self._misses = 0

    def missed(self) -> bool:
        """It did not answer. True when it is left alone from now on, the first time."""
        self._misses += 1
        self._left_alone_until_s = self._clock() + LEFT_ALONE_S
        return self._misses == MISSES_UNTIL_LEFT_ALONE
