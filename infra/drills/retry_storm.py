"""Drill `retry-storm`: every event is sent one to five times, at once, in any order, anywhere.

Some are sent alone, some in batches that share events; some clients give up after milliseconds,
throw the answer away and send again. Their request is cancelled where it is, which is harsher than
a connection that breaks. What nobody was told of in the end is sent once more, as a client does.

Every answer must give an event the same `user_seq`, the log must hold it once, and the same
event_id with another body must be refused (409). On the database of `MOONLARK_DRILL_DATABASE_URL`
(an empty one of Postgres), else on a SQLite file. Replicas: see `infra.drills.local`.
"""

import asyncio
import os
import time
from collections import Counter
from typing import Any

import httpx
import numpy as np
from tqdm import tqdm

from infra.drills.checker import check
from infra.drills.figures import Figures, Options
from infra.drills.local import LocalStore, api_of, local_store, running
from infra.drills.record import Ack, Record

ROUNDS = 30
ITEMS = 200
USERS = 20
EVENTS_A_USER = 12
MOST_COPIES = 5
MOST_IN_BATCH = 8
AT_ONCE = 48
"""Requests under way; a replica takes 256."""
GIVES_UP = 0.4
"""Share of the clients that do not wait for long."""
PATIENCE_S = 0.02
KINDS = ("view", "click", "favourite", "dislike", "hide", "rating")

Body = dict[str, Any]


class _Storm:
    """The events of one run, and what was told of them."""

    def __init__(self, clients: list[httpx.AsyncClient], figures: Figures, seed: int) -> None:
        self._clients, self._figures = clients, figures
        self._rng = np.random.default_rng(seed)
        self._busy = asyncio.Semaphore(AT_ONCE)
        self.record = Record()
        self.told: dict[tuple[str, str], int] = {}
        self.counts: Counter[str] = Counter()

    async def round(self, number: int) -> None:
        """New events of some users, all their copies at once, then the rest, then other bodies."""
        events = self._events(number)
        sent = [self._send(batch) for batch in self._copies(events)]
        await asyncio.gather(*sent)
        left = [event for event in events if _name(event) not in self.told]
        self.counts["sent_once_more"] += len(left)
        await asyncio.gather(*(self._send([event], patient=True) for event in left))
        if absent := [event for event in left if _name(event) not in self.told]:
            self._figures.lost += len(absent)
            self._figures.tell(f"never acknowledged: {absent[0]}")
        await asyncio.gather(*(self._other_body(event) for event in events[::10]))

    def _events(self, number: int) -> list[Body]:
        """Of each user some; the last one undoes one of the round before."""
        made: list[Body] = []
        for user in range(USERS):
            for n in range(EVENTS_A_USER):
                kind = str(self._rng.choice(KINDS))
                event: Body = {"user_id": f"u{user}", "event_id": f"r{number}-{n}", "kind": kind}
                event["item_id"] = f"i{self._rng.integers(ITEMS)}"
                if kind == "rating":
                    event["value"] = float(self._rng.integers(1, 6))
                made.append(event)
            if number:
                undo = {"kind": "undo", "undoes": f"r{number - 1}-{self._rng.integers(3)}"}
                made.append({"user_id": f"u{user}", "event_id": f"r{number}-undo", **undo})
        return made

    def _copies(self, events: list[Body]) -> list[list[Body]]:
        """Each event one to five times, shuffled, in batches of one to eight."""
        copies = np.repeat(
            np.arange(len(events)), self._rng.integers(1, MOST_COPIES + 1, len(events))
        )
        self._rng.shuffle(copies)
        batches: list[list[Body]] = []
        while len(copies):
            size = int(self._rng.integers(1, MOST_IN_BATCH + 1)) if self._rng.random() < 0.5 else 1
            # An event twice in one batch is a retry as well.
            batches.append([events[row] for row in copies[:size]])
            copies = copies[size:]
        return batches

    async def _send(self, batch: list[Body], *, patient: bool = False) -> None:
        client = self._clients[self._rng.integers(len(self._clients))]
        gives_up = not patient and self._rng.random() < GIVES_UP
        patience_s = float(self._rng.random()) * PATIENCE_S if gives_up else None
        body = batch[0] if len(batch) == 1 else {"events": batch}
        async with self._busy:
            self.counts["requests"] += 1
            try:
                answer = await asyncio.wait_for(client.post("/v1/events", json=body), patience_s)
            except TimeoutError:
                self.counts["answers_thrown_away"] += 1
                return
        if answer.status_code != 200:
            self._figures.failed_requests += 1
            self._figures.tell(f"{answer.status_code}: {answer.text[:300]}")
            return
        for event, told in zip(batch, answer.json()["events"], strict=True):
            self._hear(event, told["user_seq"], duplicate=told["duplicate"])

    def _hear(self, event: Body, user_seq: int, *, duplicate: bool) -> None:
        """One acknowledgement; all of one event must say the same."""
        self.counts["told_duplicate"] += duplicate
        self.counts["told_new"] += not duplicate
        if self.told.setdefault(_name(event), user_seq) != user_seq:
            self._figures.duplicated += 1
            self._figures.tell(f"{_name(event)}: {self.told[_name(event)]}, then {user_seq}")
        # An undo that finds its work done is told the number of what undid it.
        if event["kind"] != "undo":
            self.record.acks.append(Ack(event["user_id"], event["event_id"], user_seq))

    async def _other_body(self, event: Body) -> None:
        client = self._clients[self._rng.integers(len(self._clients))]
        other = {**event, "surface": "another"}
        answer = await client.post("/v1/events", json=other)
        self.counts["other_bodies"] += 1
        if answer.status_code != 409:
            self._figures.tell(f"another body of {_name(event)}: {answer.status_code}, not 409")


def _name(event: Body) -> tuple[str, str]:
    return event["user_id"], event["event_id"]


def run(options: Options) -> Figures:
    """`rounds` storms of some 250 events."""
    url = os.environ.get("MOONLARK_DRILL_DATABASE_URL")
    with local_store(items=ITEMS, seed=options.seed, database_url=url) as store:
        return run_on(store, options)


def run_on(store: LocalStore, options: Options) -> Figures:
    """On a store that is there already."""
    rounds = ROUNDS if options.rounds is None else options.rounds
    figures = Figures("retry-storm", rounds, options.seed)
    store.publish("g0", options.seed)
    started_s = time.monotonic()
    storm = asyncio.run(_storm(store, rounds, figures, options))
    check(storm.record, store.engine, store.root, figures)
    figures.more |= {"database": store.engine.dialect.name, "events": len(storm.told)}
    figures.more |= dict(storm.counts)
    figures.more["seconds"] = round(time.monotonic() - started_s, 1)
    return figures


async def _storm(store: LocalStore, rounds: int, figures: Figures, options: Options) -> _Storm:
    first, second = api_of(store), api_of(store)
    async with running(first), running(second):
        clients = [
            httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://127.0.0.1")
            for api in (first, second)
        ]
        storm = _Storm(clients, figures, options.seed)
        for number in tqdm(
            range(rounds), "retry-storm", unit="round", disable=not options.progress
        ):
            await storm.round(number)
        for client in clients:
            await client.aclose()
    return storm
