"""Random groups of events of a few users, many of them sent by several writers under one id.

`python -m tests.contract.random_groups URL SEED WRITER` sends a writer's share and prints answers.
"""

import json
import sys
from collections import Counter
from typing import NamedTuple

import numpy as np
from sqlalchemy import Engine

from sql.engine import open_engine, read_snapshot
from sql.events import Appended, EventKind, NewEvent, append, effective
from tests.contract.activity_counts import read_activity
from tests.contract.store_builder import NOW_MS, log

USERS = ("anna", "Bert", "cleo", "Ülo")
ITEMS = ("i1", "i2")
GROUPS, REQUESTS, EVENTS = 2, 3, 4


class Told(NamedTuple):
    """What a writer was told of an event."""

    user_id: str
    event_id: str
    user_seq: int
    duplicate: bool


def groups(seed: int, writer: int) -> list[list[list[NewEvent]]]:
    """The groups of requests that a writer sends, in its order."""
    rng = np.random.default_rng([seed, writer])
    return [
        [
            [_event(rng, writer) for _ in range(rng.integers(1, EVENTS + 1))]
            for _ in range(rng.integers(1, REQUESTS + 1))
        ]
        for _ in range(GROUPS)
    ]


def _event(rng: np.random.Generator, writer: int) -> NewEvent:
    """One event; what is sent under a shared id is the same whoever sends it."""
    user = str(rng.choice(USERS))
    number = int(rng.integers(6))
    name = f"shared-{number}" if rng.random() < 0.6 else f"{writer}-{rng.integers(2**31)}"
    item = ITEMS[number % 2]
    if number == 5:
        target = f"shared-{rng.integers(5)}"
        return NewEvent(user, f"undo-{target}", EventKind.UNDO, undoes=target)
    if number in (3, 4):
        return NewEvent(user, name, EventKind.RATING, item, value=float(number))
    return NewEvent(user, name, EventKind.VIEW, item)


def send(engine: Engine, seed: int, writer: int) -> list[Told]:
    """All groups of a writer; what was stored or had been stored before."""
    told = []
    for requests in groups(seed, writer):
        for request, answer in zip(
            requests, append(engine, requests, received_at_ms=NOW_MS), strict=True
        ):
            # A request may be refused: it undoes what nobody has sent yet.
            given: list[Appended] = answer if isinstance(answer, list) else []
            told += [
                Told(event.user_id, event.event_id, appended.user_seq, appended.duplicate)
                for event, appended in zip(request, given, strict=False)
            ]
    return told


def check(engine: Engine, told: list[Told]) -> None:
    """Gapless, nothing twice, nothing lost; the log is what the writers were told."""
    counted: Counter[str] = Counter()
    stored = {user: log(engine, user) for user in USERS}
    numbers: dict[tuple[str, str], int] = {}
    for user, events in stored.items():
        assert [event.user_seq for event in events] == list(range(1, len(events) + 1))
        assert len({event.event_id for event in events}) == len(events)
        undone = [event.undoes_seq for event in events if event.undoes_seq is not None]
        assert len(undone) == len(set(undone))
        numbers |= {(user, event.event_id): event.user_seq for event in events}
        counted.update(str(event.kind) for event in effective(events))
    first = [answer for answer in told if not answer.duplicate]
    assert {(a.user_id, a.event_id): a.user_seq for a in first} == numbers
    assert len(first) == len(numbers)
    for answer in told:
        if not answer.event_id.startswith("undo"):  # a second undo names the first one's number
            assert numbers[answer.user_id, answer.event_id] == answer.user_seq
    with read_snapshot(engine) as conn:
        activity: Counter[str] = Counter()
        for row in read_activity(conn, 0):
            activity[row.kind] += row.n
    assert activity == counted


if __name__ == "__main__":
    url, seed, writer = sys.argv[1:]
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps(send(open_engine(url), int(seed), int(writer))))
