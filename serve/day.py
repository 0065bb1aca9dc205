"""The composition root of a replica: what it is made of, started and stopped in order.

Everything a route needs hangs on the `Day`; its dependencies are parameters with production's
defaults, so that a test can run the same code without Ray.
"""

import asyncio
import logging
import os
import socket
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import faiss
from sqlalchemy import Engine

from serve.allowances import Allowances
from serve.clock import wall_clock_ms
from serve.counts import Counts
from serve.feedback import Feedback
from serve.fetching import Fetching
from serve.forgetting import Forgetting
from serve.fused import AHEAD_S
from serve.generation_watch import GenerationWatch
from serve.interests import InterestsOfUsers
from serve.keyring import KeyRing
from serve.late_texts import LateTexts
from serve.loaded_generation import LoadedGeneration
from serve.metrics import Metrics, Reading, Tell, Told
from serve.online_encoder import EmbedTexts, OnlineEncoder
from serve.periodic import Periodic
from serve.policies import Policies
from serve.recommend import Recommender
from serve.session_cache import SessionCache
from serve.settings import ServeSettings
from serve.shard_search import AskDeployment, ShardCalls, open_with_distant_shards
from serve.trending import Trending
from serve.user_state import UserStates
from serve.write_behind import WriteBehind
from sql.checkpoints import checkpoint
from sql.engine import open_engine
from sql.erasure import apply_ledger
from sql.erasure_ledger import Ledger
from sql.pulse import Pulse
from sql.schema import check_schema
from sql.settings import StoreSettings

CHECKPOINT_S = 1.0
"""Between two copies of SQLite's log, which the disk syncs beside the commits; pages that were
written again meanwhile are copied once."""


def _tell_nobody(reading: Reading) -> None:
    """Outside Ray nobody asks."""


@dataclass(frozen=True)
class Day:
    """A running replica."""

    engine: Engine
    settings: ServeSettings
    replica_id: str
    now_ms: Callable[[], int]
    encoder: OnlineEncoder
    late_texts: LateTexts
    feedback: Feedback
    watch: GenerationWatch[LoadedGeneration]
    recommender: Recommender
    states: UserStates
    write_behind: WriteBehind
    keys: KeyRing
    forgetting: Forgetting
    pulse: Pulse
    interests: InterestsOfUsers
    allowances: Allowances
    counts: Counts
    metrics: Metrics
    list_pool: ThreadPoolExecutor
    """Where lists are made that may take long, and all where they wait for others: for a database
    server, or for shards in deployments of their own."""
    lists_at_once: bool
    """Whether the others are made on the event loop (`Recommender.recommend_at_once`)."""
    pools_ahead: Periodic
    """Makes what the lists of the next second share, beside the requests."""
    checkpoints: Periodic
    """Copies SQLite's log, so that no acknowledgement waits for it."""

    @classmethod
    async def start(
        cls,
        store: StoreSettings,
        settings: ServeSettings,
        embed: EmbedTexts,
        ask_shards: Sequence[AskDeployment] = (),
        *,
        now_ms: Callable[[], int] = wall_clock_ms,
        tell: Tell = _tell_nobody,
    ) -> "Day":
        """Open the database, load the generations, begin to answer.

        `ask_shards`: the deployments that hold the shards; none where they are held here.
        `tell`: is given each reading of the metrics.

        Raises:
            sql.errors.StoreError: an unsafe or outdated database.
            ray_jobs.shards.errors.BadStoreUri: MOONLARK_ARTIFACT_URI names no store.
        """
        # One query is one core's work; more threads a query only make them wait for each other.
        faiss.omp_set_num_threads(1)
        root = Path(store.artifact_root).absolute()
        engine, ledger, pulse = await asyncio.to_thread(
            _open, store.database_url, settings.statement_timeout_s, store.ledger_folder
        )
        replica_id = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        keys = KeyRing(engine, settings)
        await asyncio.to_thread(keys.start)
        # Leases keep the database's time: a replica's own clock may be an hour off.
        watch = GenerationWatch(
            engine,
            root,
            replica_id,
            settings.watch_interval_s,
            None,
            _opener(settings, ask_shards),
            Fetching.open(store.artifact_uri, root),
        )
        await asyncio.to_thread(watch.start)
        write_behind = WriteBehind(engine, settings.write_behind_queue, now_ms=now_ms)
        write_behind.start()
        cache = SessionCache(settings.session_cache)
        forgetting = Forgetting(engine, ledger, cache, now_ms)
        forgetting.start()
        states = UserStates(
            engine,
            watch,
            cache,
            write_behind,
            write_back_after=settings.write_back_after,
            now_ms=now_ms,
        )
        counts = Counts(now_ms)
        feedback = Feedback(engine, settings, now_ms, ledger.key, counts)
        feedback.start()
        encoder = OnlineEncoder(embed, settings.embed_timeout_s)
        told = Told(engine, root, watch, counts, write_behind, now_ms, settings.metrics_interval_s)
        metrics = Metrics(told, tell)
        metrics.start()
        recommender = Recommender(
            engine, states, Trending(engine, now_ms), write_behind, now_ms, Policies(engine)
        )
        pools_ahead = Periodic("pools-ahead", AHEAD_S, recommender.make_ready, logging.INFO)
        pools_ahead.start()
        checkpoints = Periodic("checkpoints", CHECKPOINT_S, partial(_checkpoint, engine))
        checkpoints.start()
        return cls(
            engine=engine,
            settings=settings,
            replica_id=replica_id,
            now_ms=now_ms,
            encoder=encoder,
            late_texts=LateTexts(engine, encoder),
            feedback=feedback,
            watch=watch,
            recommender=recommender,
            states=states,
            write_behind=write_behind,
            keys=keys,
            forgetting=forgetting,
            pulse=pulse,
            interests=InterestsOfUsers(),
            allowances=Allowances(settings),
            counts=counts,
            metrics=metrics,
            pools_ahead=pools_ahead,
            checkpoints=checkpoints,
            lists_at_once=engine.dialect.name == "sqlite" and not ask_shards,
            list_pool=ThreadPoolExecutor(
                settings.distant_list_threads if ask_shards else settings.list_threads,
                "lists",
                # It is kept per thread: without it each search sets it, twice a shard.
                partial(faiss.omp_set_num_threads, 1),
            ),
        )

    async def stop(self) -> None:
        """Write what is left, give the lease back."""
        self.list_pool.shutdown(wait=False)
        await asyncio.to_thread(self.pools_ahead.stop)
        await self.feedback.stop()
        await self.late_texts.stop()
        await asyncio.to_thread(self.metrics.stop)
        await asyncio.to_thread(self.write_behind.stop)
        await asyncio.to_thread(self.forgetting.stop)
        await asyncio.to_thread(self.watch.stop)
        await asyncio.to_thread(self.keys.stop)
        await asyncio.to_thread(self.checkpoints.stop)
        await asyncio.to_thread(self.pulse.stop)
        self.engine.dispose()


def _opener(
    settings: ServeSettings, ask_shards: Sequence[AskDeployment]
) -> Callable[[Path, str, str], LoadedGeneration]:
    """How this replica opens a generation. To be called on its loop."""
    if not ask_shards:
        return LoadedGeneration.open
    calls = ShardCalls(ask_shards, asyncio.get_running_loop())
    return partial(open_with_distant_shards, calls.ask, settings.shard_timeout_s)


def _open(
    database_url: str, statement_timeout_s: float, root: Path
) -> tuple[Engine, Ledger, Pulse]:
    """The database and the ledger, which is applied before anything is answered: the database may
    have been restored from before an erasure."""
    engine = open_engine(
        database_url, statement_timeout_s=statement_timeout_s, checkpoints_beside=True
    )
    check_schema(engine)
    pulse = Pulse(engine)
    pulse.start()
    ledger = Ledger.open(root)
    apply_ledger(engine, ledger)
    return engine, ledger, pulse


def _checkpoint(engine: Engine) -> None:
    if engine.dialect.name == "sqlite":
        checkpoint(engine)
