"""Generations that this node lacks come from the object store, in a thread beside the watch.

A fetch may take minutes, and a replica that did not look at the registry meanwhile would lose its
lease. Only at its start, when it has nothing to answer from, a replica waits for it.
"""

import logging
from collections.abc import Collection
from functools import partial
from pathlib import Path

from ray_jobs.shards.carry import discard_copies, fetch_generation
from ray_jobs.shards.manifest import MANIFEST_NAME
from ray_jobs.shards.object_store import ObjectStore
from serve.beside import Beside

log = logging.getLogger(__name__)


class Fetching:
    """What one replica fetches. To be called by one thread, the watch's."""

    def __init__(self, objects: ObjectStore, root: Path) -> None:
        self._objects, self._root = objects, root
        self._running: dict[str, Beside[object]] = {}

    @classmethod
    def open(cls, uri: str | None, root: Path) -> "Fetching | None":
        """None without a store. Raises ray_jobs.shards.errors.BadStoreUri."""
        objects = ObjectStore.open(uri)
        return None if objects is None else cls(objects, root)

    def is_here(self, generation_id: str, sealed_digest: str, *, wait: bool) -> bool:
        """Whether this node has the generation; else it is fetched, and waited for on `wait`.

        Raises:
            ray_jobs.shards.errors.ShardsError, OSError: the fetch ended so; the next call begins
                another.
        """
        if (self._root / "generations" / generation_id / MANIFEST_NAME).exists():
            self._running.pop(generation_id, None)
            return True
        running = self._running.get(generation_id)
        if running is None:
            fetch = partial(
                fetch_generation, self._objects, self._root, generation_id, sealed_digest
            )
            running = self._running[generation_id] = Beside(f"fetch-{generation_id}", fetch)
        if not running.is_over(None if wait else 0.0):
            return False
        del self._running[generation_id]
        running.result()
        return True

    def discard(self, pruned: Collection[str]) -> None:
        """Delete this node's copies of what was pruned elsewhere."""
        for generation_id in discard_copies(self._root, pruned):
            log.info("generation %s was pruned: its copy here is deleted", generation_id)
