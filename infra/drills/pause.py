"""Drill `pause`: a replica is frozen (SIGSTOP) for 30 s, another's clock is an hour off.

While one is frozen its lease runs out, the others go on, and a generation is published without it;
when it goes on, it answers from nothing that it has no right to. A clock that is an hour ahead
holds no lease beyond its replica's death, and one that is behind loses none.

It is not frozen amid a transaction: SQLite has one lock, and who sleeps with it holds up all others
that write (`infra/RELIABILITY.md`, "What is not safe").
"""

import os
import signal
import sqlite3
import time
from dataclasses import dataclass

import numpy as np
import psutil
from sqlalchemy.engine import make_url

from infra.drills.clock import step_clock
from infra.drills.figures import Figures, Options
from infra.drills.kills import ALL_MUST_ANSWER, ITEMS, USERS, Rounds, whole_again
from infra.drills.night_worker import make
from infra.drills.shoppers import Load
from infra.drills.stack import DrillStack, drill_stack, now_ms
from infra.drills.victims import gateways, kill, wait_for
from ray_jobs.nightly.publish import stage_and_flip
from ray_jobs.nightly.settings import NightSettings
from sql.live import LEASE_MS

ROUNDS = 6
PAUSE_S = 30.0
HOUR_MS = 3_600_000
LEASE_GRACE_S = LEASE_MS / 1000 + 3.0
"""By then a lease that is not renewed has run out."""
LOCK_WAIT_S = 1.0
"""Longer than the writes of those who are awake take."""
NOT_NOW_S = 0.05
MOST_STOPS = 50


def run(options: Options) -> Figures:
    """`rounds`, in turn a pause and a clock, on a stack of their own."""
    with drill_stack(items=ITEMS, users=USERS, seed=options.seed) as stack:
        return run_on(stack, options)


def run_on(
    stack: DrillStack,
    options: Options,
    *,
    pause_s: float = PAUSE_S,
    load: Load = ALL_MUST_ANSWER,
    items: int = ITEMS,
) -> Figures:
    """`rounds` on a stack that is there already, of `items`."""
    rounds = ROUNDS if options.rounds is None else options.rounds
    figures = Figures("pause", rounds, options.seed)
    drill = _Pause(stack, options.seed, pause_s, figures)
    Rounds(stack, drill.harm, load, items).run(options, rounds, figures)
    return figures


@dataclass
class _Pause:
    stack: DrillStack
    seed: int
    pause_s: float
    figures: Figures

    def harm(self, number: int, rng: np.random.Generator) -> None:
        generation_id = f"p{number + 1}"
        self.stack.night.submit(
            make, self.stack.database_url, self.stack.root, generation_id, self.seed + number + 1
        ).result()
        victim = int(rng.choice(sorted(gateways(self.stack))))
        if number % 2 == 0:
            self._freeze(victim, generation_id)
        else:
            self._step(victim, generation_id, HOUR_MS if number % 4 == 1 else -HOUR_MS)
        whole_again(self.stack)

    def _freeze(self, victim: int, generation_id: str) -> None:
        self._stop_between_writes(victim)
        started_s = time.monotonic()
        try:
            self._must_lose_its_lease(victim, "frozen")
            self._publish(generation_id)
            time.sleep(max(0.0, self.pause_s - (time.monotonic() - started_s)))
        finally:
            os.kill(victim, signal.SIGCONT)

    def _stop_between_writes(self, victim: int) -> None:
        for _ in range(MOST_STOPS):
            os.kill(victim, signal.SIGSTOP)
            if may_write(self.stack.database_url):
                return
            os.kill(victim, signal.SIGCONT)
            time.sleep(NOT_NOW_S)
        raise TimeoutError(f"{victim} was always amid a write")

    def _step(self, victim: int, generation_id: str, off_ms: int) -> None:
        step_clock(self.stack.folder, victim, off_ms)
        time.sleep(LEASE_GRACE_S)
        what = f"with a clock {off_ms / HOUR_MS:+.0f} h off"
        if victim not in gateways(self.stack):
            self.figures.tell(f"a replica {what} lost its lease")
        self._publish(generation_id)
        kill(psutil.Process(victim))
        self._must_lose_its_lease(victim, what)

    def _must_lose_its_lease(self, victim: int, what: str) -> None:
        """The lease alone counts here, whether or not the process is there."""
        try:
            wait_for("the end of a lease", lambda: victim not in self._leases(), LEASE_GRACE_S)
        except TimeoutError:
            self.figures.tell(f"the lease of a replica {what} is still believed")

    def _leases(self) -> set[int]:
        return set(gateways(self.stack, living=False))

    def _publish(self, generation_id: str) -> None:
        _, waited_s, _ = stage_and_flip(
            self.stack.engine,
            generation_id,
            settings=NightSettings(),
            who="drill",
            why="pause",
            hold=False,
            now_ms=now_ms,
        )
        longest = max(self.figures.more.get("publish_waited_s_max", 0.0), round(waited_s, 2))
        self.figures.more["publish_waited_s_max"] = longest


def may_write(database_url: str) -> bool:
    """Whether SQLite's lock is to be had in `LOCK_WAIT_S`; Postgres has none of that kind."""
    url = make_url(database_url)
    if url.get_backend_name() != "sqlite":
        return True
    database = sqlite3.connect(str(url.database), timeout=LOCK_WAIT_S, isolation_level=None)
    try:
        database.execute("BEGIN IMMEDIATE")
        database.execute("ROLLBACK")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorname != "SQLITE_BUSY":
            raise
        return False
    finally:
        database.close()
    return True
