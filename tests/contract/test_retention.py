"""Retention: old events go, standing wishes stay, no session outlives what it was made from."""

from collections.abc import Sequence

import pytest
from sqlalchemy import Engine, insert, select

from sql.activity import hour_of
from sql.engine import read_snapshot, write
from sql.event import EventKind, NewEvent, effective
from sql.events import find_user, read_trimmed
from sql.exposures import Exposure, read_exposure, write_exposures
from sql.retention import CHUNK, Trim, retain, trim_events
from sql.sessions import SessionRow, read_session, write_sessions
from sql.settings import RetentionSettings
from sql.snapshot import Snapshot, read_recommendation
from sql.tables import sessions, text_vectors
from tests.contract.activity_counts import read_activity
from tests.contract.store_builder import (
    DAY_MS,
    ENCODER,
    NOW_MS,
    generation,
    key_of,
    log,
    post,
    put,
    rating,
    refused,
    search,
    seqs,
    undo,
    vector,
    view,
)

QUICK = Trim(pause_s=0, sleep=lambda _: None)
OLD_MS = NOW_MS - 10 * DAY_MS
HORIZON_MS = NOW_MS - 5 * DAY_MS


@pytest.fixture(autouse=True)
def _catalog(engine: Engine) -> None:
    put(engine, "i1", "i2", "i3")


def wish(kind: EventKind, event_id: str, item_id: str) -> NewEvent:
    return NewEvent("u1", event_id, kind, item_id)


def old(engine: Engine, *new: NewEvent, at_ms: int = OLD_MS) -> None:
    (answer,) = post(engine, list(new), at_ms=at_ms)
    assert isinstance(answer, list)


def trim(engine: Engine, before_ms: int = HORIZON_MS, *, texts_only: bool = False) -> int:
    return trim_events(engine, before_ms, texts_only=texts_only, trim=QUICK)


def left(engine: Engine) -> list[str]:
    return [event.event_id for event in log(engine)]


def trimmed_seq(engine: Engine) -> int:
    with read_snapshot(engine) as conn:
        user = find_user(conn, "u1")
    assert user is not None
    return user.trimmed_seq


def store(engine: Engine, user_seq: int, state: bytes, trimmed: int) -> int:
    row = SessionRow(key_of(engine), user_seq, state, trimmed)
    return write_sessions(engine, "g1", [row], pause_s=0)


def read(engine: Engine, cached: tuple[int, int, int] | None = None) -> Snapshot:
    known = {} if cached is None else {"g1": cached}
    return read_recommendation(engine, "u1", ["g1"], {"g1": ENCODER}, known)


def test_old_events_go_and_numbers_go_on(engine: Engine) -> None:
    old(engine, view("a"), view("b"), search("s", "text", e1=vector(1)))
    post(engine, [view("c"), view("d", user_id="u2")])
    assert trim(engine) == 3
    assert left(engine) == ["c"]
    assert len(log(engine, "u2")) == 1
    with read_snapshot(engine) as conn:
        assert read_trimmed(conn) == {key_of(engine): 3}
        assert conn.execute(select(text_vectors.c.user_seq)).all() == []
    (answer,) = post(engine, [view("e")])
    assert seqs(answer) == [5]
    assert trim(engine) == 0
    assert trimmed_seq(engine) == 3


def test_dislikes_and_hides_in_force_stay_and_what_was_taken_back_goes(engine: Engine) -> None:
    old(
        engine,
        wish(EventKind.HIDE, "h1", "i1"),
        wish(EventKind.DISLIKE, "d2", "i2"),
        wish(EventKind.HIDE, "h3", "i3"),
        undo("u", "h3"),
        view("a"),
    )
    assert trim(engine) == 3
    assert left(engine) == ["h1", "d2"]
    post(engine, [undo("later", "h1")])
    assert trim(engine) == 1
    assert left(engine) == ["d2", "later"]
    assert [e.event_id for e in effective(log(engine))] == ["d2"]
    assert trim(engine, NOW_MS + 1) == 1
    assert left(engine) == ["d2"]


def test_what_is_gone_cannot_be_undone_and_a_retry_of_what_is_there_is_harmless(
    engine: Engine,
) -> None:
    old(engine, view("a"), view("b"), rating("r1", 1.0, "i2"))
    request = [undo("u", "a"), rating("r2", 2.0, "i2")]
    post(engine, request)
    assert trim(engine) == 3
    (answer,) = post(engine, [undo("x", "b")])
    assert refused(answer) == [(0, "undoes", 409)]
    (again,) = post(engine, request)
    assert seqs(again) == [4, 5]
    (other,) = post(engine, [undo("u", "r2")])  # the same id, another body
    assert refused(other) == [(0, "event_id", 409)]
    (rated,) = post(engine, [rating("r3", 3.0, "i2")])
    assert seqs(rated) == [6]
    assert [e.event_id for e in effective(log(engine))] == ["r3"]


def test_an_undo_never_goes_before_what_it_takes_back(engine: Engine) -> None:
    # Received by a replica whose clock was ahead, undone by one whose clock was not.
    old(engine, wish(EventKind.HIDE, "h", "i1"), at_ms=HORIZON_MS + 1)
    old(engine, undo("u", "h"))
    assert trim(engine) == 0
    assert effective(log(engine)) == []


def test_texts_alone_can_go_sooner(engine: Engine) -> None:
    old(engine, view("a"), search("s1", "text"), view("b"), search("s2", "text"), undo("u", "s2"))
    assert trim(engine, texts_only=True) == 2
    assert left(engine) == ["a", "b", "u"]
    assert trimmed_seq(engine) == 4
    # Events below the highest number that went: it must be seen that there are fewer now.
    assert trim(engine) == 3
    assert trimmed_seq(engine) > 4


def test_a_log_whose_newest_events_went_is_read_to_its_end(engine: Engine) -> None:
    old(engine, view("e1", "i1"), search("e2", "boots"))
    trim(engine, texts_only=True)
    found = read(engine)
    assert [event.event_id for event in found.tail] == ["e1"]
    assert not found.tail_truncated, "nothing follows: an answer from it is not behind"


def test_a_long_log_goes_in_small_transactions(engine: Engine) -> None:
    old(engine, *(view(f"e{n}") for n in range(CHUNK + 10)))
    told: list[int] = []
    slept: list[float] = []
    paced = Trim(pause_s=0.5, sleep=slept.append, progress=told.append)
    assert trim_events(engine, HORIZON_MS, trim=paced) == CHUNK + 10
    assert (told, slept) == ([CHUNK, 10], [0.5, 0.5])
    assert trimmed_seq(engine) == CHUNK + 10


# -- sessions -------------------------------------------------------------------------------------


def test_a_session_from_before_the_trim_is_not_used_wherever_it_lies(engine: Engine) -> None:
    old(engine, view("a"), view("b"))
    post(engine, [view("c")])
    key = key_of(engine)
    assert store(engine, 3, b"before", 0) == 1
    assert read(engine).base == "session"
    assert read(engine, (key, 3, 0)).base == "cached"

    assert trim(engine) == 2
    with read_snapshot(engine) as conn:
        assert read_session(conn, "g1", key) is None  # it holds what is gone

    found = read(engine, (key, 3, 0))
    assert (found.base, [e.event_id for e in found.tail]) == ("none", ["c"])
    assert store(engine, 3, b"late write-behind", 0) == 0
    assert read(engine).base == "none"
    assert store(engine, 3, b"after", 2) == 1
    assert read(engine, (key, 3, 0)).session == SessionRow(key, 3, b"after", 2)
    assert read(engine, (key, 3, 2)).base == "cached"


def test_a_write_behind_that_raced_the_trim_is_not_used_and_gives_way(engine: Engine) -> None:
    """The writer saw the user before the trim, and its row lands after it."""
    old(engine, view("a"))
    post(engine, [view("b"), view("c")])
    assert trim(engine) == 1
    key = key_of(engine)
    row = {"generation_id": "g1", **SessionRow(key, 3, b"raced", 0)._asdict()}
    with write(engine) as conn:
        conn.execute(insert(sessions).values(row))
    found = read(engine)
    assert (found.base, len(found.tail)) == ("none", 2)
    assert store(engine, 2, b"after", 1) == 1  # forward, although 2 < 3
    assert read(engine).session == SessionRow(key, 2, b"after", 1)


@pytest.mark.parametrize("order", [(True, False), (False, True)])
def test_each_trim_voids_what_was_folded_before_it(engine: Engine, order: Sequence[bool]) -> None:
    old(engine, view("a"), view("b"), search("s", "text"), at_ms=OLD_MS)
    old(engine, search("s2", "text"), view("v"), at_ms=OLD_MS + DAY_MS)
    post(engine, [view("c")])
    seen = set()
    for texts_only in order:
        before = trimmed_seq(engine)
        horizon_ms = HORIZON_MS if texts_only else OLD_MS + 1
        assert trim(engine, horizon_ms, texts_only=texts_only)
        assert trimmed_seq(engine) > before
        assert read(engine, (key_of(engine), 6, before)).base == "none"
        seen.add(trimmed_seq(engine))
    assert len(seen) == 2


# -- the rest -------------------------------------------------------------------------------------


def test_everything_by_setting(engine: Engine) -> None:
    generation(engine, "g1")
    old(engine, view("a"), search("s", "text"))
    fresh = search("t", "new", **{ENCODER: vector(1), "gone": vector(2)})
    post(engine, [view("b"), fresh])
    shown = [
        Exposure(f"r{age}", key_of(engine), "g1", 1, 1, NOW_MS - age * DAY_MS, []) for age in (1, 9)
    ]
    write_exposures(engine, shown)
    settings = RetentionSettings(events_days=30, text_days=7, exposures_days=7, activity_days=7)
    assert retain(engine, settings, now_ms=NOW_MS, trim=QUICK) == {
        "events": 0,
        "texts": 1,
        "exposures": 1,
        "activity": 1,
        "text_vectors": 1,
    }
    assert left(engine) == ["a", "b", "t"]
    with read_snapshot(engine) as conn:
        assert read_exposure(conn, "r1") is not None
        assert read_exposure(conn, "r9") is None
        assert [row.n for row in read_activity(conn, 0)] == [1]
        assert read_activity(conn, 0, hour_of(HORIZON_MS)) == []
        vectors = conn.execute(select(text_vectors.c.encoder_id)).scalars().all()
    assert vectors == [ENCODER]
    assert sum(retain(engine, settings, now_ms=NOW_MS, trim=QUICK).values()) == 0


def test_never_is_never_and_no_generation_means_no_encoder_is_old(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("EVENTS", "TEXT", "EXPOSURES", "ACTIVITY"):
        monkeypatch.setenv(f"MOONLARK_RETAIN_{name}_DAYS", "never")
    old(engine, view("a"), search("s", "text", e1=vector(1)), at_ms=1)
    report = retain(engine, RetentionSettings(), now_ms=NOW_MS, trim=QUICK)
    assert sum(report.values()) == 0
    monkeypatch.setenv("MOONLARK_RETAIN_TEXT_DAYS", "0")
    with pytest.raises(ValueError, match="text_days"):
        RetentionSettings()


def test_a_user_erased_meanwhile_is_skipped(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    old(engine, view("a"))
    monkeypatch.setattr("sql.retention._lock", lambda conn, user_key: None)
    assert trim(engine) == 0
