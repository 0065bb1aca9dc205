"""The counts of an hour: weighted, the most active first, without what was undone."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, insert

from sql import activity
from sql.activity import hour_of, read_hour
from sql.catalog import put_items
from sql.engine import read_snapshot, write
from sql.event import EventKind, NewEvent
from sql.events import append
from sql.tables import item_activity
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


@pytest.mark.parametrize("slice_rows", [13, 40, 1_000])
def test_an_hour_read_in_slices_is_the_hour(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, slice_rows: int
) -> None:
    """Items of up to twelve rows, those of one never torn apart; of equal ones the first items."""
    rng = np.random.default_rng(slice_rows)
    rows: list[dict[str, Any]] = [
        {"hour": 7, "ordinal": ordinal, "kind": kind, "slot": slot, "n": int(rng.integers(0, 3))}
        for ordinal in rng.choice(500, 60, replace=False).tolist()
        for kind in ("view", "click", "purchase", "hide")
        for slot in range(3)
        if rng.random() < 0.7
    ]
    beside = {"hour": 8, "ordinal": 1, "kind": "click", "slot": 0, "n": 9}
    with write(engine) as conn:
        conn.execute(insert(item_activity), [*rows, beside])
    sums: Counter[int] = Counter()
    for row in rows:
        sums[row["ordinal"]] += WEIGHTS.get(row["kind"], 0.0) * row["n"]
    best = sorted((ordinal for ordinal in sums if sums[ordinal] > 0), key=lambda o: (-sums[o], o))
    monkeypatch.setattr(activity, "SLICE_ROWS", slice_rows)
    pauses: list[None] = []
    for limit in (1, 7, 1_000):
        pauses.clear()
        with read_snapshot(engine) as conn:
            read = read_hour(conn, 7, WEIGHTS, limit, lambda: pauses.append(None))
        found = dict(zip(read.ordinals.tolist(), read.sums.tolist(), strict=True))
        assert found == {ordinal: sums[ordinal] for ordinal in best[:limit]}
        assert read.rows == len(rows)
        assert len(pauses) >= len(rows) // slice_rows
