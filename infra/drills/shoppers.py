"""Clients of the drills that kill: our own client, with its retries and an event_id of its own.

A writer posts events in batches, and now and then an item; a reader asks for lists of the writers'
users, so that what one was told must be in force for another.
"""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from infra.client import Moonlark, MoonlarkError
from infra.drills.catalog import made_title
from infra.drills.record import Ack, Answer, ItemAck, Kind, Record, Timing
from infra.drills.traffic import EVENTS_A_USER, KINDS

WRITE_TIMEOUT_S = 60.0
"""For so long an event is tried again."""
BATCH = 5
WRITE_PACE_S = 0.1
READ_PACE_S = 0.1
ITEM_SHARE = 0.05
"""Of a writer's turns."""


@dataclass(frozen=True, slots=True)
class Load:
    """Who asks what, how often: 4 writers of 5 events each tenth of a second are 200 events/s.

    `read_timeout_s`: the deadline of a list, all its tries together.
    """

    writers: int = 4
    readers: int = 3
    read_timeout_s: float = 10.0
    reads_may_fail: bool = False
    """A list that misses its deadline is counted, and breaks no promise."""


class Told(NamedTuple):
    """What was acknowledged to a user last."""

    user_id: str
    user_seq: int


class Shopper(threading.Thread):
    """What writers and readers share: a pace, a client, and a note of each call."""

    def __init__(self, name: str, url: str, record: Record, timeout_s: float) -> None:
        super().__init__(name=name, daemon=True)
        self._url, self._record, self._timeout_s = url, record, timeout_s
        self._ended = threading.Event()

    def end(self) -> None:
        """Ask it to stop after the present call."""
        self._ended.set()

    def _at_pace(self, turn: Any, pace_s: float) -> None:
        with Moonlark(self._url, self._timeout_s) as api:
            while not self._ended.is_set():
                started_s = time.monotonic()
                turn(api)
                self._ended.wait(max(0.0, pace_s - (time.monotonic() - started_s)))

    def _note(self, kind: Kind, started_s: float, error: MoonlarkError | None) -> None:
        seconds = time.monotonic() - started_s
        self._record.timings.append(Timing(kind, started_s, seconds, error is None))


class Writer(Shopper):
    """The only one who writes for its users and its items."""

    def __init__(self, number: int, url: str, items: int, record: Record, seed: int) -> None:
        super().__init__(f"writer-{number}", url, record, WRITE_TIMEOUT_S)
        self._number, self._items = number, items
        self._rng = np.random.default_rng((seed, number))
        self._users = 0
        self._own: dict[str, bool] = {}
        self._next_user()

    def run(self) -> None:
        """Until `end`."""
        self._at_pace(self._turn, WRITE_PACE_S)

    def _turn(self, api: Moonlark) -> None:
        if self._rng.random() < ITEM_SHARE:
            self._item(api)
        else:
            self._post(api)

    def _next_user(self) -> None:
        self._users += 1
        self.told = Told(f"w{self._number}-{self._users}", 0)
        self._undoable: list[str] = []

    def _post(self, api: Moonlark) -> None:
        if self.told.user_seq >= EVENTS_A_USER:
            self._next_user()
        user_id, seq = self.told
        events = [self._event(user_id, f"e{seq + 1 + n}") for n in range(BATCH)]
        started_s, failed = time.monotonic(), None
        try:
            stored = api.post_events(events).events
        except MoonlarkError as error:
            failed = error
            self._record.failed(f"events of {user_id} after e{seq}: {error}")
            self._next_user()  # whether they were stored is not known: nothing more is said of them
            return
        finally:
            self._note("event", started_s, failed)
        at_ms = _now_ms()
        for event in stored:
            self._record.acks.append(Ack(user_id, event.event_id, event.user_seq, at_ms))
        self._undoable += [e["event_id"] for e in events if e["kind"] not in ("undo", "rating")]
        self.told = Told(user_id, max(event.user_seq for event in stored))

    def _event(self, user_id: str, event_id: str) -> dict[str, Any]:
        event: dict[str, Any] = {"user_id": user_id, "event_id": event_id}
        if self._undoable and self._rng.random() < 0.15:
            undone = self._undoable.pop(int(self._rng.integers(len(self._undoable))))
            return event | {"kind": "undo", "undoes": undone}
        kind = str(self._rng.choice(KINDS))
        event |= {"kind": kind, "item_id": f"i{self._rng.integers(self._items)}"}
        return event | {"value": float(self._rng.integers(1, 6))} if kind == "rating" else event

    def _item(self, api: Moonlark) -> None:
        name = f"w{self._number}-item{self._rng.integers(20)}"
        title = None if self._own.get(name) else made_title(self._rng)
        started_s, failed = time.monotonic(), None
        try:
            if title is None:
                change = api.delete_item(name)
            else:
                change = api.put_item(name, {"title": title})
        except MoonlarkError as error:
            failed = error
            self._record.failed(f"item {name}: {error}")
            return
        finally:
            self._note("item", started_s, failed)
        self._own[name] = title is not None
        self._record.acked_item(
            ItemAck(
                name, "delete" if title is None else "put", title, change.catalog_seq, _now_ms()
            )
        )


class Reader(Shopper):
    """Asks for lists of the writers' users."""

    def __init__(
        self,
        number: int,
        url: str,
        record: Record,
        seed: int,
        writers: Sequence[Writer],
        load: Load,
    ) -> None:
        super().__init__(f"reader-{number}", url, record, load.read_timeout_s)
        self._rng = np.random.default_rng((seed, 1_000 + number))
        self._writers, self._may_fail = writers, load.reads_may_fail

    def run(self) -> None:
        """Until `end`."""
        self._at_pace(self._ask, READ_PACE_S)

    def _ask(self, api: Moonlark) -> None:
        told = self._writers[int(self._rng.integers(len(self._writers)))].told
        k, catalog_seq = int(self._rng.choice((5, 20, 50))), self._record.catalog_seq
        started_s, failed = time.monotonic(), None
        try:
            answer = api.recommend(told.user_id, k=k)
        except MoonlarkError as error:
            failed = error
            if not self._may_fail:
                self._record.failed(f"list of {told.user_id}: {error}")
            return
        finally:
            self._note("recommend", started_s, failed)
        self._record.answers.append(
            Answer(
                user_id=told.user_id,
                k=k,
                generation=answer.generation,
                user_seq=answer.user_seq,
                catalog_seq=answer.catalog_seq,
                items=tuple((item.item_id, item.score) for item in answer.items),
                basis=answer.basis,
                degraded=tuple(answer.degraded),
                least_user_seq=told.user_seq,
                least_catalog_seq=catalog_seq,
                as_of_ms=round(answer.as_of.timestamp() * 1000),
            )
        )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class Crowd:
    """Writers and readers, started on entry, ended and waited for on exit."""

    def __init__(self, url: str, items: int, record: Record, seed: int, load: Load) -> None:
        writers = [Writer(n, url, items, record, seed) for n in range(load.writers)]
        readers = [Reader(n, url, record, seed, writers, load) for n in range(load.readers)]
        self._shoppers: list[Shopper] = [*writers, *readers]

    def __enter__(self) -> "Crowd":
        for shopper in self._shoppers:
            shopper.start()
        return self

    def __exit__(self, *_: object) -> None:
        for shopper in self._shoppers:
            shopper.end()
        for shopper in self._shoppers:
            shopper.join()
