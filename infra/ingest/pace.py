"""How bulk writes share the database with the day: small transactions with a pause between them.

Measured on SQLite (DESIGN.md): one big transaction stalls acknowledgements for 3.6 s, chunks with a
pause for 13 ms.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Pace:
    """Rows in a transaction, and the pause after it."""

    items: int = 200
    events: int = 1_000
    pause_s: float = 0.005
    sleep: Callable[[float], None] = time.sleep

    def rest(self) -> None:
        """Let others write."""
        self.sleep(self.pause_s)


def chunks(values: Iterable[T], size: int) -> Iterator[list[T]]:
    """`values` in lists of `size`, the last one shorter."""
    iterator = iter(values)
    while chunk := list(islice(iterator, size)):
        yield chunk
