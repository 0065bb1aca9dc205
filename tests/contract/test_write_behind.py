"""Promise: what is written after the answer holds up no acknowledgement: small transactions, with
a pause after each; and what could not be written now is written later."""

from collections.abc import Callable
from itertools import pairwise

import pytest
from sqlalchemy import Engine, func, select

import serve.write_behind
from serve.write_behind import FLUSH_PAUSE_S, FLUSH_ROWS, WriteBehind
from sql.engine import read_snapshot
from sql.errors import StoreBusy
from sql.exposures import Exposure, write_exposures
from sql.sessions import SessionRow
from sql.tables import exposures, sessions
from tests.contract.store_builder import NOW_MS, key_of, post, put, view

ROWS = 2 * FLUSH_ROWS + 1


def shown(number: int) -> Callable[[], Exposure]:
    return lambda: Exposure(f"r{number}", None, "g1", 0, 0, NOW_MS, [])


def stored(engine: Engine, table: object = exposures) -> int:
    with read_snapshot(engine) as conn:
        return conn.execute(select(func.count()).select_from(table)).scalar_one()  # type: ignore[arg-type]


def test_what_waits_is_written_in_small_transactions_between_which_others_append(
    engine: Engine,
) -> None:
    put(engine, "i1")
    post(engine, [view("a", user_id=f"u{number}") for number in range(ROWS)])
    during: list[tuple[int, int]] = []

    def others(pause_s: float) -> None:
        assert pause_s == FLUSH_PAUSE_S
        post(engine, [view(f"e{len(during)}")])  # were the lock held, this would not return
        during.append((stored(engine), stored(engine, sessions)))

    records = WriteBehind(engine, 1_000, others)
    for number in range(ROWS):
        records.expose(shown(number))
        records.keep_session("g1", SessionRow(key_of(engine, f"u{number}"), 1, b"state"))
    records.flush()
    assert during[-1] == (ROWS, ROWS)
    steps = [(0, 0), *during]
    for before, after in pairwise(steps):
        assert all(new - old <= FLUSH_ROWS for old, new in zip(before, after, strict=True))


def test_after_an_error_what_is_left_waits_for_the_next_time(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> int:
        raise StoreBusy("a database", "it is locked")

    records = WriteBehind(engine, 1_000, lambda _: None)
    for number in range(ROWS):
        records.expose(shown(number))
    writes: list[Callable[..., int]] = [refused, write_exposures]
    for write in writes:
        monkeypatch.setattr(serve.write_behind, "write_exposures", write)
        records.flush()
    assert (records.dropped, stored(engine)) == (FLUSH_ROWS, ROWS - FLUSH_ROWS)
