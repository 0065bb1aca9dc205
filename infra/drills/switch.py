"""Drill `switch`: generations are published and rolled back under traffic, and nobody notices.

Each round makes one switch with the shipped code: a fresh generation is staged and published, or
the one before is made live again; every fifth is a rollback with `hold`, in which an automatic
publish must be refused, and the hold is cleared. Clients never retry.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tqdm import tqdm

from infra.drills.checker import check
from infra.drills.figures import Figures, Options
from infra.drills.night_worker import Span, make
from infra.drills.record import Record
from infra.drills.stack import DrillStack, drill_stack, now_ms
from infra.drills.traffic import Client
from infra.drills.windows import Windows
from ray_jobs.nightly.publish import stage_and_flip
from ray_jobs.nightly.rollback import rollback
from ray_jobs.nightly.settings import NightSettings
from sql import generations
from sql.engine import read_snapshot
from sql.errors import HoldSet

ROUNDS = 50
ITEMS = 2_000
USERS = 20_000
CLIENTS = 4
ORDINARY_S = 2.0
"""Of undisturbed traffic between two switches; 30 rounds make the ordinary minute."""
AFTER_FLIP_S = 1.0
"""What follows a flip belongs to the switch: replicas fold under the new weights."""
WARM_UP_S = 5.0


@dataclass
class _Drill:
    """One run."""

    stack: DrillStack
    windows: Windows = field(default_factory=Windows)
    made: int = 0
    rollback_s: list[float] = field(default_factory=list)
    switch_s: list[float] = field(default_factory=list)
    holds_kept: int = 0

    def round(self, number: int, seed: int) -> None:
        if number % 5 == 2:
            self._timed(self._roll_back_with_hold, self.rollback_s)
        elif number % 2 == 0:
            self.made += 1
            name = f"g{self.made}"
            stack = self.stack
            bulk = stack.night.submit(make, stack.database_url, stack.root, name, seed + self.made)
            self.windows.bulk.append(bulk.result())
            self._timed(lambda: self._publish(name), self.switch_s)
        else:
            previous = self._live().previous
            assert previous is not None, "a fresh generation was published before"
            self._timed(lambda: self._publish(previous), self.switch_s)
        started_s = time.monotonic()
        time.sleep(ORDINARY_S)
        self.windows.ordinary.append(Span(started_s, time.monotonic()))

    def _timed(self, switch: Callable[[], None], seconds: list[float]) -> None:
        started_s = time.monotonic()
        switch()
        seconds.append(time.monotonic() - started_s)
        time.sleep(AFTER_FLIP_S)
        self.windows.switch.append(Span(started_s, time.monotonic()))

    def _publish(self, generation_id: str) -> None:
        stage_and_flip(
            self.stack.engine,
            generation_id,
            settings=NightSettings(),
            who="drill",
            why="switch",
            hold=False,
            now_ms=now_ms,
        )

    def _roll_back_with_hold(self) -> None:
        left = self._live().generation_id
        pointer = rollback(self.stack.engine, None, who="drill", why="every fifth")
        try:
            self._publish(left)
        except HoldSet:
            self.holds_kept += 1
        generations.clear_hold(
            self.stack.engine, expected_flip=pointer.flip, who="drill", why="go on", at_ms=now_ms()
        )

    def _live(self) -> generations.LivePointer:
        with read_snapshot(self.stack.engine) as conn:
            live = generations.read_live(conn)
        assert live is not None, "the stack published g0"
        return live


def run(options: Options) -> Figures:
    """`rounds` switches on a stack of their own."""
    with drill_stack(items=ITEMS, users=USERS, seed=options.seed) as stack:
        return run_on(stack, options, items=ITEMS)


def run_on(stack: DrillStack, options: Options, *, items: int) -> Figures:
    """`rounds` switches on a stack that is there already."""
    rounds = ROUNDS if options.rounds is None else options.rounds
    figures = Figures("switch", rounds, options.seed)
    drill, record = _Drill(stack), Record()
    clients = [Client(n, stack.url, items, record, options.seed) for n in range(CLIENTS)]
    for client in clients:
        client.start()
    try:
        time.sleep(WARM_UP_S)
        for number in tqdm(range(rounds), "switch", unit="round", disable=not options.progress):
            drill.round(number, options.seed)
    finally:
        for client in clients:
            client.end()
        for client in clients:
            client.join()
    figures.more["requests"] = len(record.timings)
    check(record, stack.engine, stack.root, figures)
    if drill.holds_kept != len(drill.rollback_s):
        figures.tell(f"a hold was kept {drill.holds_kept} of {len(drill.rollback_s)} times")
    figures.more |= drill.windows.figures(record.timings)
    for name, seconds in (("publish", drill.switch_s), ("rollback", drill.rollback_s)):
        if seconds:
            figures.more[f"{name}_s_median"] = round(sorted(seconds)[len(seconds) // 2], 2)
            figures.more[f"{name}_s_max"] = round(max(seconds), 2)
    return figures
