"""What stays is kept from a replica's garbage collector.

A replica has half a million objects that live as long as it does, or as its generation: modules,
routes, tables. A full collection walks over all of them. It comes once in some thousand lists, and
for a quarter of a second nobody is answered. Frozen they are not walked over, and a full collection
takes some milliseconds (`python -m infra.bench.list_cost`).

What is frozen is freed as ever once nothing refers to it; only rings of references would stay. A
generation that is let go is in none.
"""

import gc
from collections.abc import Callable, Collection

from serve.periodic import Periodic

INTERVAL_S = 1.0
YOUNG = 1
"""Generations of the collector that are collected before: what is garbage must not be frozen."""


class Settled:
    """Freezes what is there when the replica begins, and again when it holds other generations.

    `loaded`: the ids of those.
    """

    def __init__(self, loaded: Callable[[], Collection[str]]) -> None:
        self._loaded = loaded
        self._of: tuple[str, ...] | None = None
        self._rounds = Periodic("settled", INTERVAL_S, self.round)

    def start(self) -> None:
        """Collect all garbage, before anybody is answered, then freeze and keep on."""
        gc.collect()
        self.round()
        self._rounds.start()

    def stop(self) -> None:
        """End the thread."""
        self._rounds.stop()

    def round(self) -> None:
        """Freeze, if something else is loaded than when it last did."""
        now = tuple(self._loaded())
        if now != self._of:
            gc.collect(YOUNG)
            gc.freeze()
            self._of = now
