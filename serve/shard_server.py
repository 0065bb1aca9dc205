"""Some shards of every generation, in a Serve deployment of their own: the other side.

It follows the registry as a gateway replica does: loads what is staged, live or kept warm, verifies
its files, holds a lease and says in it what is ready, so that a publish waits for it. It knows no
users and no items: masks, the delta and the merge are the gateway's.
"""

import asyncio
import logging
import os
import socket
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import faiss
import numpy as np
from sqlalchemy import Engine

from ray_jobs.shards.distant import HeldShards, Reply, ShardQuery
from ray_jobs.shards.faiss_index import Assignment
from ray_jobs.shards.manifest import COARSE_NAME, shard_name, verify
from serve.fetching import Fetching
from serve.generation_watch import GenerationWatch
from serve.loaded_generation import open_sealed
from serve.settings import ServeSettings
from serve.settled import Settled
from sql.engine import open_engine
from sql.pulse import Pulse
from sql.schema import check_schema
from sql.settings import StoreSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShardsOfGeneration:
    """What one deployment holds of one generation; immutable, the day's changes are elsewhere."""

    generation_id: str
    shards: HeldShards

    @classmethod
    def open(
        cls,
        index: int,
        deployments: int,
        artifact_root: Path,
        generation_id: str,
        sealed_digest: str | None,
    ) -> "ShardsOfGeneration":
        """Verify and open the shards `index`, `index + deployments`, ...

        Raises:
            ray_jobs.shards.errors.ShardsError: a file is missing, altered or foreign.
        """
        directory, manifest = open_sealed(artifact_root, generation_id, sealed_digest)
        numbers = range(index, manifest.shard_count, deployments)
        mine = {*map(shard_name, numbers), COARSE_NAME}
        verify(directory, manifest, names=mine)
        if not numbers:
            log.warning(
                "generation %s has %d shards for %d deployments, and none for this one; a night "
                "makes as many as MOONLARK_SHARDS says",
                *(generation_id, manifest.shard_count, deployments),
            )
        return cls(generation_id, HeldShards.open(directory, manifest, numbers))

    def catch_up(self, engine: Engine) -> None:
        """Nothing to do: the delta is the gateway's."""

    def warm(self) -> None:
        """One search a shard, and the table and kernel by which vectors are read back."""
        for shard in self.shards.shards.values():
            query_BD = np.zeros((1, shard.dim), np.float32)
            query_BD[0, 0] = 1.0
            first = None
            if shard.nlist:
                first = Assignment(np.zeros((1, 1), np.int64), np.zeros((1, 1), np.float32))
            shard.best(query_BD, 10, first, None)
            shard.dots_of(shard.ordinals[:1].copy(), np.vstack([query_BD, query_BD]))


class ShardServer:
    """A replica of one deployment of shards: `index` of `settings.shard_deployments`."""

    def __init__(self, store: StoreSettings, settings: ServeSettings, index: int) -> None:
        faiss.omp_set_num_threads(1)  # as in the gateway: one query is one core's work
        self._engine = open_engine(store.database_url)
        check_schema(self._engine)
        self._pulse = Pulse(self._engine)
        self._pulse.start()
        root = Path(store.artifact_root).absolute()
        self._watch = watch = GenerationWatch(
            self._engine,
            root,
            f"shards{index}-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}",
            settings.watch_interval_s,
            None,  # leases keep the database's time
            partial(ShardsOfGeneration.open, index, settings.shard_deployments),
            Fetching.open(store.artifact_uri, root),
        )
        watch.start()
        self._settled = Settled(lambda: watch.loaded)
        self._settled.start()

    async def answer(
        self, generation_id: str, queries: Mapping[int, ShardQuery]
    ) -> dict[int, Reply]:
        """Replies by shard number; none of a generation or shard that is not held here."""
        held = self._watch.loaded.get(generation_id)
        if held is None:
            return {}
        return await asyncio.to_thread(held.shards.answer, queries)

    def check_health(self) -> None:
        """Serve replaces the replica if this raises three times running."""
        self._watch.check_health()

    def __del__(self) -> None:
        """Serve's hook at an orderly end: give the lease back."""
        watch = getattr(self, "_watch", None)
        if watch is not None:
            watch.stop()
            self._settled.stop()
            self._pulse.stop()
            self._engine.dispose()
