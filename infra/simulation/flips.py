"""What must hold in the moment the live pointer moves, watched from beside the shipped code.

Only what can be told for certain is held against it: between the look at the leases and the flip
replicas come and go.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from greenlet import getcurrent

from infra.simulation.scheduler import Violation
from infra.simulation.world import World
from sql import generations


@dataclass
class Beat:
    """A heartbeat: of whom, with which generations, begun and known to be stored when (ms)."""

    replica_id: str
    ready: tuple[str, ...]
    begun_ms: int
    stored_ms: int | None = None


class FlipWatch:
    """Notes heartbeats and stagings, and judges each flip by them."""

    def __init__(self, world: World, *, lease_ms: int, deadline_ms: int) -> None:
        self._world = world
        self._lease_ms, self._deadline_ms = lease_ms, deadline_ms
        self._beats: list[Beat] = []
        self._staged_ms: dict[tuple[Any, str], int] = {}
        """(actor, generation) -> when that actor had staged it."""

    def begun(self, replica_id: str, ready: tuple[str, ...]) -> Beat:
        beat = Beat(replica_id, ready, self._world.now_ms())
        self._beats.append(beat)
        return beat

    def stored(self, beat: Beat) -> None:
        beat.stored_ms = self._world.now_ms()

    def staged(self, generation_id: str) -> None:
        self._staged_ms[getcurrent(), generation_id] = self._world.now_ms()

    def moved(self, to: str) -> None:
        """The pointer moved to `to`.

        Raises:
            Violation: to a bad generation, or past replicas that should have been waited for.
        """
        if to in self._world.bad:
            raise Violation(f"the items of {to} were mixed up when it was built, and it went live")
        staged_ms = self._staged_ms.get((getcurrent(), to))
        if staged_ms is None:
            raise Violation(f"{to} went live, and was not staged by who published it")
        replicas = {beat.replica_id for beat in self._beats}
        late = sorted(r for r in replicas if self._was_behind(r, to, staged_ms))
        ready = any(to in b.ready and b.begun_ms >= staged_ms - self._lease_ms for b in self._beats)
        waited_ms = self._world.now_ms() - staged_ms
        if late and waited_ms < self._deadline_ms:
            raise Violation(f"{to} went live after {waited_ms} ms, without {late}")
        if late and not ready:
            raise Violation(f"{to} went live, and none of {late} can answer from it")

    def _was_behind(self, replica_id: str, to: str, since_ms: int) -> bool:
        """Whether whoever looked at any time since then saw a fresh lease without `to`."""
        fresh_until_ms = None
        for beat in self._beats:
            if beat.replica_id != replica_id:
                continue
            if to in beat.ready and beat.begun_ms >= since_ms - self._lease_ms:
                return False
            if beat.stored_ms is None:
                continue
            if beat.stored_ms <= since_ms:
                fresh_until_ms = beat.begun_ms + self._lease_ms
            elif fresh_until_ms is None or beat.stored_ms >= fresh_until_ms:
                return False
            else:
                fresh_until_ms = beat.begun_ms + self._lease_ms
        return fresh_until_ms is not None and fresh_until_ms > self._world.now_ms()


@contextmanager
def flips_watched(world: World, *, lease_ms: int, deadline_ms: int) -> Iterator[None]:
    """Each flip moves the pointer from where its caller saw it, or not at all, and `FlipWatch`
    finds nothing against it."""
    watch = FlipWatch(world, lease_ms=lease_ms, deadline_ms=deadline_ms)
    flip, stage, heartbeat = generations.flip, generations.stage, generations.heartbeat

    def watched_flip(
        engine: Any, to: str, *, expected_flip: int, **more: Any
    ) -> generations.LivePointer:
        pointer = flip(engine, to, expected_flip=expected_flip, **more)
        if pointer.flip not in (expected_flip, expected_flip + 1) or pointer.generation_id != to:
            raise Violation(f"flip to {to} from {expected_flip} came to {pointer}")
        if pointer.flip == expected_flip + 1:
            watch.moved(to)
        return pointer

    def watched_stage(engine: Any, generation_id: str) -> Any:
        staged = stage(engine, generation_id)
        watch.staged(generation_id)
        return staged

    def watched_heartbeat(
        engine: Any, replica_id: str, ready: Any, *rest: Any, **more: Any
    ) -> None:
        beat = watch.begun(replica_id, tuple(ready))
        heartbeat(engine, replica_id, ready, *rest, **more)
        watch.stored(beat)

    # `Any`: mypy holds a module's function for something that cannot be replaced.
    module: Any = generations
    module.flip, module.stage, module.heartbeat = watched_flip, watched_stage, watched_heartbeat
    try:
        yield
    finally:
        module.flip, module.stage, module.heartbeat = flip, stage, heartbeat
