"""The counts of an hour: weighted, the most active first, without what was undone."""

import numpy as np
from sqlalchemy import Engine

from sql.activity import hour_of, read_hour
from sql.catalog import put_items
from sql.engine import read_snapshot
from sql.event import EventKind, NewEvent
from sql.events import append
from tests.contract.store_builder import item

HOUR_MS = 3_600_000
WEIGHTS = {"view": 0.5, "click": 1.0, "purchase": 8.0}


def test_the_counts_of_an_hour_are_weighted_and_the_most_active_are_kept(engine: Engine) -> None:
    put_items(engine, [item(f"i{n}", "T") for n in range(5)], 1)
    at_ms = 7 * HOUR_MS + 5
    acts = [("view", 0), ("click", 1), ("view", 1), ("purchase", 2), ("hide", 3), ("click", 4)]
    events = [
        NewEvent(f"u{number}", "e", EventKind(kind), f"i{n}")
        for number, (kind, n) in enumerate(acts)
    ]
    append(engine, [events], received_at_ms=at_ms)
    append(engine, [[events[0]]], received_at_ms=at_ms)  # a retry counts once
    undo = NewEvent("u5", "undo", EventKind.UNDO, undoes="e")
    append(engine, [[undo]], received_at_ms=at_ms + HOUR_MS)
    later = NewEvent("u9", "e", EventKind.VIEW, "i0")
    append(engine, [[later]], received_at_ms=8 * HOUR_MS)
    with read_snapshot(engine) as conn:
        read = read_hour(conn, hour_of(at_ms), WEIGHTS, 10)
        found = dict(zip(read.ordinals.tolist(), read.sums.tolist(), strict=True))
        assert found == {2: 8.0, 1: 1.5, 0: 0.5}
        assert (read.ordinals.dtype, read.sums.dtype) == (np.int64, np.float32)
        assert read.rows > len(read.ordinals), "with what counts nothing, and what was undone"
        assert sorted(read_hour(conn, 7, WEIGHTS, 2)[0].tolist()) == [1, 2]
        assert read_hour(conn, 8, WEIGHTS, 10)[0].tolist() == [0]
        assert len(read_hour(conn, 9, WEIGHTS, 10)[0]) == 0
