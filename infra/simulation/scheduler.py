"""Who runs when: actors with one baton, a virtual clock, and a seed that hands the baton on.

An actor is a greenlet, so only one runs at a time and it gives the baton away only where it says
so: in `pause`, `sleep` and `wait`. The shipped code says so at each end of a transaction
(`faulty_store`). Nothing here reads the machine's clock or its randomness.
"""

import hashlib
import heapq
import random
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any

from greenlet import getcurrent, greenlet

START_MS = 1_700_000_000_000
MAX_STEPS = 100_000
KEPT_STEPS = 50
"""Steps of the trace that a failing seed shows."""


class Violation(BaseException):
    """A promise was broken, or the shipped code met what it does not expect. Passes every `except
    Exception` of the shipped code."""


class Killed(BaseException):
    """Ends an actor whose process was killed. Like SIGKILL it passes every `except Exception`."""


class Actor(greenlet):  # type: ignore[misc] # greenlet has no types
    """One thread of what happens. `background`: the simulation does not wait for its end."""

    def __init__(self, name: str, run: Callable[[], None], hub: greenlet, background: bool) -> None:
        super().__init__(lambda: _until_killed(run), hub)
        self.name = name
        self.background = background
        self.killed = False
        self.parked = 0
        """How often it went to sleep: an older entry in the queue of sleepers is void."""


def _until_killed(run: Callable[[], None]) -> None:
    with suppress(Killed):
        run()


class Trace:
    """What happened, step by step: a digest of all of it, and the last steps."""

    def __init__(self, show: Callable[[str], None] | None) -> None:
        self._show = show
        self._digest = hashlib.blake2b(digest_size=16)
        self.last: deque[str] = deque(maxlen=KEPT_STEPS)

    def add(self, line: str) -> None:
        self._digest.update(line.encode() + b"\n")
        self.last.append(line)
        if self._show is not None:
            self._show(line)

    @property
    def digest(self) -> str:
        """Two runs with one digest did the same, step by step."""
        return self._digest.hexdigest()


class Scheduler:
    """The baton. `rng` is the only source of chance in a simulation."""

    def __init__(self, seed: int, show: Callable[[str], None] | None = None) -> None:
        self.rng = random.Random(seed)
        self.now_ms = START_MS
        self.step = 0
        self.trace = Trace(show)
        self._hub = getcurrent()
        self._actors: list[Actor] = []
        self._ready: list[Actor] = []
        self._sleeping: list[tuple[int, int, int, Actor]] = []
        self._order = 0

    def monotonic(self) -> float:
        """Seconds of virtual time."""
        return self.now_ms / 1000

    def note(self, what: str) -> None:
        """A line of the trace."""
        actor = getcurrent()
        name = actor.name if isinstance(actor, Actor) else "-"
        self.trace.add(f"{self.step:5d} {self.now_ms - START_MS:6d} ms {name}: {what}")

    def spawn(self, name: str, run: Callable[[], None], *, background: bool = False) -> Actor:
        """A new actor; it begins when the seed says so."""
        actor = Actor(name, run, self._hub, background)
        self._actors.append(actor)
        self._ready.append(actor)
        return actor

    def kill(self, actor: Actor) -> None:
        """The actor does nothing more: where it waits, it ends."""
        if not actor.dead and not actor.killed:
            actor.killed = True
            self._wake(actor)

    def pause(self) -> None:
        """Give the baton away, and go on when the seed says so. Nothing outside of actors."""
        actor = getcurrent()
        if isinstance(actor, Actor):
            self._ready.append(actor)
            self._give_away(actor)

    def sleep(self, seconds: float) -> None:
        """Go on after `seconds` of virtual time. Outside of actors the clock just moves."""
        actor = getcurrent()
        if not isinstance(actor, Actor):
            self.now_ms += int(seconds * 1000)
            return
        self._park(actor, seconds)
        self._give_away(actor)

    def wait(self, call: "Call", timeout_s: float) -> None:
        """Until the call is done, or `timeout_s` have passed."""
        actor = getcurrent()
        assert isinstance(actor, Actor), "only an actor can wait"
        if not call.done:
            call.waiter = actor
            self._park(actor, timeout_s)
            self._give_away(actor)
            call.waiter = None

    def woken(self, call: "Call") -> None:
        """The call is done: whoever waits for it may go on."""
        if call.waiter is not None:
            self._wake(call.waiter)

    def run(self) -> None:
        """Until every actor but those in the background has ended; then those are killed too.

        Raises:
            Violation: whatever an actor raised.
        """
        while any(not actor.background and not actor.dead for actor in self._actors):
            self._run_one()
        for actor in self._actors:
            self.kill(actor)
        while any(not actor.dead for actor in self._actors):
            self._run_one()
        self._actors.clear()
        self._ready.clear()
        self._sleeping.clear()

    def _run_one(self) -> None:
        self.step += 1
        if self.step > MAX_STEPS:
            raise Violation(f"no end after {MAX_STEPS} steps")
        self._wake_sleepers()
        actor = self._ready.pop(self.rng.randrange(len(self._ready)))
        if actor.dead:
            return
        self.now_ms += self.rng.choice((0, 0, 1))
        actor.switch()
        if actor.dead:
            self._actors.remove(actor)

    def _wake_sleepers(self) -> None:
        while self._sleeping and (not self._ready or self._sleeping[0][0] <= self.now_ms):
            wake_ms, _, parked, actor = heapq.heappop(self._sleeping)
            if parked == actor.parked and not actor.dead:
                self.now_ms = max(self.now_ms, wake_ms)
                self._wake(actor)
        assert self._ready, "somebody waits for what nobody does"

    def _park(self, actor: Actor, seconds: float) -> None:
        self._order += 1
        wake_ms = self.now_ms + max(1, int(seconds * 1000))
        heapq.heappush(self._sleeping, (wake_ms, self._order, actor.parked, actor))

    def _wake(self, actor: Actor) -> None:
        actor.parked += 1
        if actor not in self._ready:
            self._ready.append(actor)

    def _give_away(self, actor: Actor) -> None:
        if not actor.killed:
            self._hub.switch()
        if actor.killed:
            raise Killed


class Call:
    """Something asked of another actor; its answer, an error, or nothing yet."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self.waiter: Actor | None = None
        self.done = False
        self.error: Exception | None = None
        self.answer: Any = None

    def finish(self, answer: Any = None, error: Exception | None = None) -> None:
        """Answer, once; what comes later is dropped."""
        if not self.done:
            self.done, self.answer, self.error = True, answer, error
            self._scheduler.woken(self)


class BatonLock:
    """Stands in for a `threading.Lock` that is held over a transaction: whoever must wait gives
    the baton away, where a real lock would stop the one thread there is."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._held = False

    def __enter__(self) -> None:
        self.acquire()

    def acquire(self, blocking: bool = True) -> bool:
        """As `threading.Lock.acquire` does."""
        while self._held:
            if not blocking:
                return False
            self._scheduler.pause()
        self._held = True
        return True

    def release(self) -> None:
        """As `threading.Lock.release` does."""
        self._held = False

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        self.release()
