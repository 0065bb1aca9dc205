"""The phases of the bench on one stack, in order; each gives figures, `page` makes tables of them.

Recommendations are of users who did something since their last: the event is put into the log
before the loop, by the project's own append, so that the loop costs what lists cost.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from sqlalchemy import func, select
from tqdm import tqdm

from infra.bench.process_memory import ProcessMemory
from infra.bench.rounds import Times, in_turn
from infra.bench.serving.costs import cpu_s, memory
from infra.bench.serving.floors import (
    commits_alone,
    recall_alone,
    search_alone,
    snapshot_alone,
)
from infra.bench.serving.made_catalog import item_id, user_id
from infra.bench.serving.made_store import MadeStore
from infra.bench.serving.requests import Asker, K
from infra.bench.serving.sender import Sent, Visit, closed_loop, open_loop, pooled
from infra.bench.serving.stack import BenchStack, bare_fastapi
from sql.engine import read_snapshot
from sql.events import EventKind, NewEvent, append
from sql.tables import events

CLIENTS = 16
BATCH = 100
RESENT = 0.1
"""Share of the batches that are sent twice, as a client does that had no answer."""
ASKED_AT_ONCE = 1_000
MOST_PER_S = 6_000
"""Visits are made before the clock runs: no stack here answers more."""
BARE = "bare fastapi"
WITH_A_LIST = ("lists", "visits")
NOOPS = {"noop": "/noop-asgi/nothing", "noop fastapi": "/noop-fastapi/nothing"}
FLOOR_USERS = 200
SEARCH_TEXTS = ("a quiet film about the sea", "winter boots for children", "jazz of the sixties")


@dataclass(frozen=True)
class Lengths:
    """Seconds of each loop, and how often those in turn are repeated."""

    loop_s: float
    """Of the loops at half load: that of all rounds together."""
    rounds: int
    searches: int
    pause_s: float
    """After the batches, in which their write-ahead log is copied."""


@dataclass
class Loop:
    """Closed loops of one kind: what was sent, and the CPU of each group meanwhile."""

    sent: list[Sent] = field(default_factory=list)
    cpu_s: dict[str, float] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Visits that ended whole."""
        return sum(len(sent.ends_s_NP) for sent in self.sent)

    @property
    def per_s(self) -> float:
        """The median of the rounds."""
        return float(np.median([sent.per_s for sent in self.sent]))

    def cpu_ms(self, *groups: str) -> float:
        """Of these groups, a visit."""
        return 1000 * sum(self.cpu_s.get(group, 0.0) for group in groups) / max(1, self.count)

    @property
    def sender_ms(self) -> float:
        """Of the sender, a visit."""
        return 1000 * sum(sent.cpu_s for sent in self.sent) / max(1, self.count)

    @property
    def whole(self) -> Sent:
        """All rounds as one."""
        return pooled(self.sent)


@dataclass
class Figures:
    """All that was measured on one stack."""

    loops: dict[str, Loop] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    """Of the database."""
    floors: dict[str, float] = field(default_factory=dict)
    """CPU ms of one call."""
    recall: float = 0.0
    """Of the search, at K: the share of the true nearest that it finds."""
    at_half: dict[str, Sent] = field(default_factory=dict)
    """Of the open loops, by the name of the closed one whose rate they have half of."""
    searches: Sent | None = None
    commits_s: list[float] = field(default_factory=list)
    stored: int = 0
    """By how many events the batches made the log longer."""
    distinct: int = 0
    """Different events among those that were sent in batches."""
    lists_answered: int = 0
    """In all loops: nearly as many users are then in the session caches."""
    idle: ProcessMemory | None = None
    worked: ProcessMemory | None = None


class Phases:
    """Runs them on a stack; the sender is a process of its own."""

    def __init__(self, stack: BenchStack, store: MadeStore, asker: Asker, lengths: Lengths) -> None:
        self._stack, self._store, self._asker, self._lengths = stack, store, asker, lengths
        self._rng = np.random.default_rng(1)
        self._next_user = self._number = 0
        self.figures = Figures()

    def run(self, pool: ProcessPoolExecutor) -> Figures:
        """All of them."""
        self._pool = pool
        figures, stack = self.figures, self._stack
        figures.idle = memory(stack.replicas)
        figures.versions = stack.database_version
        steps: list[tuple[str, Callable[[], None]]] = [
            ("lists beside nothing", self._in_turn),
            ("floors", self._floors),
            ("events", self._events),
            ("batches", self._batches),
            ("half load", self._half_load),
            ("searches", self._searches),
        ]
        with tqdm(steps, desc="serve", leave=False) as bar:
            for name, step in bar:
                bar.set_postfix_str(name)
                step()
        figures.worked = memory(stack.replicas)
        return figures

    def _loop(self, name: str, visits: Sequence[Visit], *groups: str) -> Loop:
        """One closed loop more of that name."""
        loop = self.figures.loops.setdefault(name, Loop())
        before = self._stack.meter.read()
        seconds = self._lengths.loop_s
        sent = self._pool.submit(closed_loop, self._stack.port, visits, CLIENTS, seconds).result()
        spent = self._stack.meter.since(before)
        loop.sent.append(sent)
        self._count_lists(name, sent)
        for group in groups:
            loop.cpu_s[group] = loop.cpu_s.get(group, 0.0) + spent.of(group)
        return loop

    def _count_lists(self, name: str, sent: Sent) -> None:
        if name in WITH_A_LIST:
            self.figures.lists_answered += len(sent.ends_s_NP)

    def _in_turn(self) -> None:
        """Lists, and the apps that do nothing, round by round. The first round only warms."""
        most = int(MOST_PER_S * self._lengths.loop_s)
        rate = 0.0
        for number in range(1 + self._lengths.rounds):
            for name, path in NOOPS.items():
                self._loop(name, [Visit((self._asker.get(path),))] * most, name, "haproxy")
            # As many as will be answered, and some: users who have something new are used up.
            count = int(max(200.0, 1.5 * rate) * self._lengths.loop_s)
            lists = self._loop("lists", self._fresh(count), "gateway", "haproxy", "database")
            rate = lists.per_s
            if not number:
                self.figures.loops.clear()
        with bare_fastapi() as (port, process):
            visits = [Visit((self._asker.get("/nothing"),))] * most
            before_s = cpu_s([process])
            loop_s = self._lengths.loop_s
            sent = self._pool.submit(closed_loop, port, visits, CLIENTS, loop_s).result()
            self.figures.loops[BARE] = Loop([sent], {BARE: cpu_s([process]) - before_s})

    def _floors(self) -> None:
        """In this process, in turn, while the stack is idle."""
        users = [
            user_id(user) for user in self._rng.choice(self._store.users, FLOOR_USERS).tolist()
        ]
        stack = self._stack
        calls = {
            "search": search_alone(stack.engine, self._store.directory, users, K),
            "snapshot": snapshot_alone(stack.database_url, users),
        }
        times: dict[str, Times] = in_turn(calls, rounds=5 * self._lengths.rounds, label="floors")
        for name, found in times.items():
            self.figures.floors[name] = 1000 * found.cpu_s / FLOOR_USERS
        self.figures.recall = recall_alone(stack.engine, self._store.directory, users, K)

    def _events(self) -> None:
        """One event a post."""
        count = int(MOST_PER_S * self._lengths.loop_s) // 2
        self._loop("events", self._clicks(count), "gateway", "haproxy", "database")

    def _batches(self) -> None:
        """A hundred events a post, some of them sent twice; then the log is counted."""
        asker = self._asker
        before, visits = self._events_in_log(), []
        for _ in range(int(4 * BATCH * self._lengths.loop_s)):
            users = self._rng.choice(self._store.users, BATCH, replace=False).tolist()
            items = self._rng.integers(self._store.items, size=BATCH).tolist()
            numbers = range(self._number, self._number + BATCH)
            post = asker.batch(list(zip(users, items, numbers, strict=True)))
            visits += [Visit((post,))] * (2 if self._rng.random() < RESENT else 1)
            self._number += BATCH
        loop = self._loop("batches", visits, "gateway", "haproxy", "database")
        # The loop took the posts in order.
        taken = {visit.requests for visit in visits[: loop.whole.sent]}
        self.figures.distinct = len(taken) * BATCH
        self.figures.stored = self._events_in_log() - before
        time.sleep(self._lengths.pause_s)

    def _half_load(self) -> None:
        """Open loops at half of what the closed ones reached, and bare commits at the rate of the
        events: all of them in turn, round by round."""
        figures, rounds, stack = self.figures, self._lengths.rounds, self._stack
        count = int(MOST_PER_S * self._lengths.loop_s) // 4
        self._loop("visits", self._visits(count), "gateway", "haproxy", "database")
        seconds = self._lengths.loop_s / rounds
        nothing = Visit((self._asker.get(NOOPS["noop"]),))
        makers: dict[str, Callable[[int], list[Visit]]] = {
            "lists": self._fresh,
            "noop": lambda count: [nothing] * max(1, count),
            "visits": self._visits,
            "events": self._clicks,
        }
        rates = {name: figures.loops[name].per_s / 2 for name in makers}
        sent: dict[str, list[Sent]] = {name: [] for name in makers}
        for number in range(rounds):
            for name, make in makers.items():
                part = self._open(make(int(rates[name] * seconds)), rates[name])
                self._count_lists(name, part)
                sent[name].append(part)
            figures.commits_s += self._pool.submit(
                commits_alone, stack.database_url, stack.folder, rates["events"], seconds, number
            ).result()
        figures.at_half = {name: pooled(parts) for name, parts in sent.items()}

    def _searches(self) -> None:
        """A search event, which BERT reads, and the list after it; one client."""
        visits = []
        for _ in range(self._lengths.searches):
            (user,) = self._rng.integers(self._store.users, size=1).tolist()
            text = f"{SEARCH_TEXTS[self._number % len(SEARCH_TEXTS)]} {self._number}"
            search = self._asker.search(user, text, self._number)
            visits.append(Visit((search, self._asker.list_of(user)), listed=K))
            self._number += 1
        sent = self._pool.submit(closed_loop, self._stack.port, visits, 1, 60.0)
        self.figures.searches = sent.result()

    def _open(self, visits: Sequence[Visit], rate: float) -> Sent:
        sent = self._pool.submit(open_loop, self._stack.port, visits, rate, self._number)
        return sent.result()

    def _fresh(self, count: int) -> list[Visit]:
        """A list of each of the next users, who clicked something just now."""
        count = max(1, min(count, self._store.users))
        chosen = [(self._next_user + n) % self._store.users for n in range(count)]
        self._next_user = (self._next_user + count) % self._store.users
        items = self._rng.integers(self._store.items, size=count).tolist()
        now_ms = time.time_ns() // 1_000_000
        posts = []
        for user, item in zip(chosen, items, strict=True):
            event_id = self._asker.event_id(self._number)
            self._number += 1
            new = NewEvent(
                *(user_id(user), event_id, EventKind.CLICK, item_id(item)), occurred_at_ms=now_ms
            )
            posts.append([new])
        for first in range(0, count, ASKED_AT_ONCE):
            part = posts[first : first + ASKED_AT_ONCE]
            append(self._stack.engine, part, received_at_ms=now_ms)
        return [
            Visit((self._asker.list_of(user),), item_id(item), K)
            for user, item in zip(chosen, items, strict=True)
        ]

    def _drawn(self, count: int) -> list[tuple[int, int, int]]:
        """(user, item, number of the event) of so many clicks."""
        users = self._rng.integers(self._store.users, size=count).tolist()
        items = self._rng.integers(self._store.items, size=count).tolist()
        numbers = range(self._number, self._number + count)
        self._number += count
        return list(zip(users, items, numbers, strict=True))

    def _clicks(self, count: int) -> list[Visit]:
        return [Visit((self._asker.click(*drawn),)) for drawn in self._drawn(max(1, count))]

    def _visits(self, count: int) -> list[Visit]:
        return [self._asker.visit(*drawn) for drawn in self._drawn(max(1, count))]

    def _events_in_log(self) -> int:
        with read_snapshot(self._stack.engine) as conn:
            count: int = conn.execute(select(func.count()).select_from(events)).scalar_one()
        return count
