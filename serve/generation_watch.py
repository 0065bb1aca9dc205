"""Keeps what a replica holds in step with the registry: load, verify, warm, report, let go.

A thread looks every `watch_interval_s`. It loads the live generation, the one before it and the
staged ones, tells the registry which are ready (the replica's lease), lets go of the others, and
applies item changes. A switch is then only a matter of which loaded generation a request picks:
it reads the live pointer itself, in its own snapshot, so there is no moment in between.

A large generation takes longer to load than a lease lasts. It is loaded in a thread beside the
watch, which goes on: a replica without a lease is not waited for, and a publish would flip to what
nobody has.
"""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from sqlalchemy import Engine

from ray_jobs.encoders.errors import EncoderError
from ray_jobs.ranking.priors import PriorsError
from ray_jobs.shards.errors import ShardsError
from serve.beside import Beside
from serve.fetching import Fetching
from serve.periodic import Periodic
from sql import generations
from sql.engine import read_snapshot

log = logging.getLogger(__name__)

RETRY_REFUSED_AFTER = 20
"""Looks until a generation that would not load is tried again (10 s at the default interval)."""

TAKEN_OUT_AFTER = 2 * RETRY_REFUSED_AFTER
"""Looks without the live generation, while others have it, until this replica is to be replaced."""


LOADS_FOR = 30 * RETRY_REFUSED_AFTER
"""Looks until a replica that is still loading the live generation counts as behind."""

SHORTLY_S = 1.0
"""What a look waits for a load that it began: a small generation is ready in the same look."""


class Held(Protocol):
    """What a process holds of a generation."""

    def catch_up(self, engine: Engine) -> object:
        """Apply what the catalog log says since."""
        ...

    def warm(self) -> None:
        """Touch what the first request would have to fault in."""
        ...


HeldT = TypeVar("HeldT", bound=Held)


class _Load(Beside[HeldT]):
    """`looks`: how many saw it under way."""

    looks = 0


class FellBehind(Exception):
    """This replica cannot load the live generation, while others can: a new one may."""


class GenerationWatch(Generic[HeldT]):
    """The generations of one replica. `start` loads before it returns; then a thread keeps on.

    `fetching`: where an object store carries the files, how this node gets those it lacks.
    `lease_now_ms`: the clock of the leases; None is the database's, which all replicas share.
    `open_generation`: (artifact root, generation id, digest of its manifest) -> what is held of it.
    """

    def __init__(
        self,
        engine: Engine,
        artifact_root: Path,
        replica_id: str,
        interval_s: float,
        lease_now_ms: Callable[[], int] | None,
        open_generation: Callable[[Path, str, str], HeldT],
        fetching: Fetching | None = None,
    ) -> None:
        self._engine = engine
        self._artifact_root = artifact_root
        self._replica_id = replica_id
        self._lease_now_ms = lease_now_ms
        self._open_generation = open_generation
        self._fetching = fetching
        self._loaded: dict[str, HeldT] = {}
        self._loading: dict[str, _Load[HeldT]] = {}
        self._refused: dict[str, str] = {}
        self._looks = 0
        self._looks_behind = 0
        look = partial(self.look, wait=False)
        self._rounds = Periodic("generation-watch", interval_s, look)

    def start(self) -> None:
        """Load what is wanted now, then keep watching."""
        self.look()
        self._rounds.start()

    def stop(self) -> None:
        """End the thread and give the lease back."""
        self._rounds.stop()
        generations.drop_replica(self._engine, self._replica_id)

    @property
    def loaded(self) -> dict[str, HeldT]:
        """The generations that can answer, newest first. A fresh mapping at every change."""
        return self._loaded

    @property
    def refused(self) -> dict[str, str]:
        """Wanted generations that would not load, and why."""
        return dict(self._refused)

    def check_health(self) -> None:
        """Serve's health check: a replica that stays behind the others is replaced.

        Where no replica has the live generation it is the generation's fault: all stay and answer
        from the newest they hold, marked.

        Raises:
            FellBehind: it was behind in `TAKEN_OUT_AFTER` looks running (20 s, three tries).
        """
        if self._looks_behind >= TAKEN_OUT_AFTER:
            raise FellBehind(f"the live generation is not loaded here: {self._refused}")

    def look(self, *, wait: bool = True) -> None:
        """One round: load, catch up, let go, report. `wait`: for what is fetched and loaded."""
        with read_snapshot(self._engine) as conn:
            pointer = generations.read_live(conn)
            known = generations.list_generations(conn)
        wanted = {g.generation_id for g in known if g.state == "staged"}
        if pointer is not None:
            wanted.add(pointer.generation_id)
            if pointer.previous is not None:
                wanted.add(pointer.previous)
        sealed = {g.generation_id: g.manifest_digest or "" for g in known}
        gone = {g.generation_id for g in known if g.state in ("pruned", "failed")}
        if self._looks % RETRY_REFUSED_AFTER == 0:
            self._refused.clear()
            if self._fetching is not None:
                self._fetching.discard([g.generation_id for g in known if g.state == "pruned"])
        self._looks += 1
        for generation_id in sorted(wanted - gone - self._loaded.keys() - self._refused.keys()):
            self._load(generation_id, sealed.get(generation_id, ""), wait=wait)
        awaited = wanted - gone - self._loaded.keys()
        self._loading = {g: load for g, load in self._loading.items() if g in awaited}
        for generation in self._loaded.values():
            generation.catch_up(self._engine)
        live = pointer.generation_id if pointer else None
        self._let_go(wanted, gone, live)
        self._count_behind(live)
        refused = {g: why for g, why in self._refused.items() if g in wanted}
        generations.heartbeat(
            self._engine, self._replica_id, list(self._loaded), self._at_ms(), refused
        )

    def _load(self, generation_id: str, sealed_digest: str, *, wait: bool) -> None:
        try:
            generation = self._brought(generation_id, sealed_digest, wait=wait)
        except (ShardsError, EncoderError, PriorsError, OSError) as error:
            log.error("generation %s was refused: %s", generation_id, error)
            self._refused[generation_id] = str(error)
            return
        except Exception as error:  # whatever a file makes of us: the others go on answering
            log.exception("generation %s could not be loaded", generation_id)
            self._refused[generation_id] = f"{type(error).__name__}: {error}"
            return
        if generation is None:
            return  # under way: the next look asks again
        newest_first = sorted([*self._loaded, generation_id], reverse=True)
        held = {**self._loaded, generation_id: generation}
        self._loaded = {g: held[g] for g in newest_first}
        log.info("loaded generation %s", generation_id)

    def _brought(self, generation_id: str, sealed_digest: str, *, wait: bool) -> HeldT | None:
        """The generation, fetched and loaded; None while that is under way."""
        if self._fetching is not None and not self._fetching.is_here(
            generation_id, sealed_digest, wait=wait
        ):
            return None
        bring = partial(self._bring, generation_id, sealed_digest)
        if wait:
            return bring()
        load = self._loading.get(generation_id)
        if load is None:
            load = self._loading[generation_id] = _Load(f"load-{generation_id}", bring)
        if not load.is_over(0.0 if load.looks else SHORTLY_S):
            load.looks += 1
            return None
        del self._loading[generation_id]
        return load.result()

    def _bring(self, generation_id: str, sealed_digest: str) -> HeldT:
        generation = self._open_generation(self._artifact_root, generation_id, sealed_digest)
        generation.catch_up(self._engine)
        generation.warm()
        return generation

    def _count_behind(self, live: str | None) -> None:
        """Counts looks, not time: a step of the clock must not end a replica."""
        if live is None or live in self._loaded:
            self._looks_behind = 0
            return
        load = self._loading.get(live)
        if load is not None and load.looks < LOADS_FOR:
            return
        with read_snapshot(self._engine) as conn:
            replicas = generations.fresh_replicas(conn, self._at_ms())
        others_have_it = any(live in replica.ready for replica in replicas)
        self._looks_behind = self._looks_behind + 1 if others_have_it else 0

    def _at_ms(self) -> int | None:
        return None if self._lease_now_ms is None else self._lease_now_ms()

    def _let_go(self, wanted: set[str], gone: set[str], live: str | None) -> None:
        # Without the live one, keep whatever answers: an old list, marked, beats none.
        unwanted = self._loaded.keys() - wanted if live in self._loaded else gone
        if self._loaded.keys() & unwanted:
            self._loaded = {g: held for g, held in self._loaded.items() if g not in unwanted}
