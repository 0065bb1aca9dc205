"""The one read: which generation, which base, and that base and tail fold to the effective log."""

from collections import Counter
from dataclasses import replace
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from sql.catalog import put_items
from sql.engine import read_snapshot
from sql.events import EventKind, NewEvent, StoredEvent, effective
from sql.generations import flip, read_live
from sql.quick_snapshot import read_quickly
from sql.sessions import SessionRow, write_sessions
from sql.snapshot import Snapshot, read_recommendation, read_whole
from tests.contract.activity_counts import read_activity
from tests.contract.store_builder import (
    ENCODER,
    NOW_MS,
    generation,
    item,
    key_of,
    log,
    post,
    put,
    rating,
    search,
    undo,
    vector,
    view,
)

EXAMPLES = 100
_example = count()


def read(engine: Engine, user_id: str | None = "u1", **more: object) -> Snapshot:
    """Also the short way of `quick_snapshot`, where it gives an answer, is the whole one's."""
    options = {"loaded": ["g1"], "encoder_of": {"g1": ENCODER}, **more}
    found = read_recommendation(engine, user_id, **options)  # type: ignore[arg-type]
    whole = read_whole(engine, user_id, **options)  # type: ignore[arg-type]
    assert replace(found, text_vectors={}) == replace(whole, text_vectors={})
    assert found.text_vectors.keys() == whole.text_vectors.keys()
    return found


def make_live(engine: Engine) -> None:
    with read_snapshot(engine) as conn:
        if read_live(conn) is not None:
            return
    generation(engine, "g1")
    flip(engine, "g1", expected_flip=0, who="t", why="t", hold=False, at_ms=NOW_MS)


def store(engine: Engine, user_key: int, user_seq: int, state: bytes = b"state") -> None:
    write_sessions(engine, "g1", [SessionRow(user_key, user_seq, state)], pause_s=0)


# -- any history ----------------------------------------------------------------------------------

Step = tuple[str, int]
STEPS = st.lists(
    st.tuples(st.sampled_from(["view", "rate", "rate", "undo", "undo"]), st.integers(0, 11)),
    min_size=1,
    max_size=12,
)


def to_requests(steps: list[Step], user_id: str) -> list[list[NewEvent]]:
    """One event a request: an undo that is refused (of an undo) hinders no other."""
    requests = []
    for n, (what, of) in enumerate(steps):
        if what == "undo":
            event = undo(f"e{n}", f"e{of % max(n, 1)}", user_id)
        elif what == "rate":
            event = rating(f"e{n}", float(n), f"i{of % 2 + 1}", user_id)
        else:
            event = view(f"e{n}", f"i{of % 2 + 1}", user_id)
        requests.append([event])
    return requests


def is_prefix(part: list[StoredEvent], whole: list[StoredEvent]) -> bool:
    return whole[: len(part)] == part


def check_base(history: list[StoredEvent], found: Snapshot) -> None:
    """Base and tail give the effective log, up to where the tail was cut."""
    end = found.tail[-1].user_seq if found.tail else found.base_seq
    assert found.tail_truncated == (end < len(history))
    assert found.tail == history[found.base_seq : end]
    gone = {e.undoes_seq for e in found.tail} | found.undone_later
    fed = [e for e in found.tail if e.kind != EventKind.UNDO and e.user_seq not in gone]
    base = effective(history[: found.base_seq])
    assert base + fed == [e for e in effective(history) if e.user_seq <= end]


@given(steps=STEPS, cut=st.integers(1, 4), data=st.data())
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_base_is_valid_if_and_only_if_its_fold_is_a_prefix_of_the_whole_fold(
    engine: Engine, steps: list[Step], cut: int, data: st.DataObject
) -> None:
    put(engine, "i1", "i2")
    make_live(engine)
    user_id = f"user-{next(_example)}"
    requests = to_requests(steps, user_id)
    split = data.draw(st.integers(0, len(requests)), label="first group")
    for group in (requests[:split], requests[split:]):
        post(engine, *group)
    history = log(engine, user_id)
    if not history:  # a lone undo of nothing
        assert read(engine, user_id).user is None
        return
    n, key = len(history), history[0].user_key
    assert [e.user_seq for e in history] == list(range(1, n + 1))
    check_ratings(history)
    valid = {s: is_prefix(effective(history[:s]), effective(history)) for s in range(1, n + 1)}

    for s in range(1, n + 1):
        for max_tail in (2_000, cut):
            found = read(engine, user_id, cached={"g1": (key, s, 0)}, max_tail=max_tail)
            assert (found.base, found.base_seq) == (("cached", s) if valid[s] else ("none", 0))
            assert found.session is None
            check_base(history, found)
    check_base(history, read(engine, user_id, max_tail=cut))

    stored = data.draw(st.integers(1, n), label="session")
    store(engine, key, stored, b"of %d" % stored)
    for s in range(1, n + 1):
        found = read(engine, user_id, cached={"g1": (key, s, 0)})
        bases = [(s, "cached"), (stored, "session")]
        bases.sort(key=lambda base: (-base[0], base[1]))
        base_seq, base = next((b for b in bases if valid[b[0]]), (0, "none"))
        assert (found.base, found.base_seq) == (base, base_seq)
        assert found.session == (
            SessionRow(key, stored, b"of %d" % stored) if base == "session" else None
        )
        check_base(history, found)


def check_ratings(history: list[StoredEvent]) -> None:
    """A rating names the rating of its item that was in force, if there was one."""
    for event in history:
        if event.kind == EventKind.RATING:
            before = [
                e.user_seq
                for e in effective(history[: event.user_seq - 1])
                if (e.kind, e.item_id) == (EventKind.RATING, event.item_id)
            ]
            assert before == ([event.undoes_seq] if event.undoes_seq else [])


@given(histories=st.lists(STEPS, min_size=1, max_size=3))
@settings(
    max_examples=EXAMPLES // 4,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_activity_counts_the_effective_events(engine: Engine, histories: list[list[Step]]) -> None:
    hour = next(_example)
    put(engine, "i1", "i2")
    names = [f"user-{next(_example)}" for _ in histories]
    for name, steps in zip(names, histories, strict=True):
        post(engine, *to_requests(steps, name), at_ms=hour * 3_600_000)
    expected = Counter(
        (e.ordinal, str(e.kind)) for name in names for e in effective(log(engine, name))
    )
    with read_snapshot(engine) as conn:
        assert {(row[0], row[1]): row[2] for row in read_activity(conn, hour, hour + 1)} == expected


# -- single cases ---------------------------------------------------------------------------------


def test_empty_store_and_unknown_user(engine: Engine) -> None:
    for user_id in (None, "nobody"):
        found = read(engine, user_id, loaded=[])
        assert (found.live, found.generation_id, found.user, found.base) == (
            None,
            None,
            None,
            "none",
        )
        assert (found.tail, found.tail_truncated, found.catalog_seq) == ([], False, 0)


def test_live_generation_is_chosen_where_it_is_held_else_the_newest_held(engine: Engine) -> None:
    for name in ("g1", "g2"):
        generation(engine, name)
    put(engine, "i1", "i2")
    pointer = flip(engine, "g1", expected_flip=0, who="t", why="t", hold=False, at_ms=NOW_MS)

    held = read(engine, loaded=["g2", "g1"])
    assert (held.live, held.generation_id, held.catalog_seq) == (pointer, "g1", 2)
    not_held = read(engine, loaded=["g3", "g2"])
    assert (not_held.live, not_held.generation_id) == (pointer, "g3")
    assert read(engine, loaded=[]).generation_id is None


def test_the_usual_read_goes_the_short_way(engine: Engine) -> None:
    make_live(engine)
    put(engine, "i1")
    post(engine, [view("a"), view("b"), view("c")])
    key = key_of(engine)
    store(engine, key, 1)
    stored = read_quickly(engine, "u1", ["g1"], {}, 2_000)
    assert stored is not None
    assert (stored.base_seq, stored.state, len(stored.tail)) == (1, b"state", 2)
    cached = read_quickly(engine, "u1", ["g1"], {"g1": (key, 2, 0)}, 2_000)
    assert cached is not None
    assert (cached.base_seq, cached.state, len(cached.tail)) == (2, None, 1)
    assert read_quickly(engine, "u1", ["g2", "g1"], {}, 2_000) is None  # it is not the first
    assert read_quickly(engine, "nobody", ["g1"], {}, 2_000) is None
    post(engine, [undo("d", "a")])
    assert read_quickly(engine, "u1", ["g1"], {}, 2_000) is None  # reaches into the session
    assert read(engine).base == "none"


def test_base_of_another_generation_is_not_used(engine: Engine) -> None:
    put(engine, "i1")
    post(engine, [view("a"), view("b")])
    store(engine, key_of(engine), 1)
    found = read(engine, loaded=["g2"], cached={"g1": (key_of(engine), 2, 0)})
    assert (found.generation_id, found.base, len(found.tail)) == ("g2", "none", 2)


def test_cached_state_of_another_user_key_is_ignored(engine: Engine) -> None:
    put(engine, "i1")
    post(engine, [view("a"), view("b")])
    key = key_of(engine)
    assert read(engine, cached={"g1": (key + 1, 2, 0)}).base == "none"
    store(engine, key, 1)
    found = read(engine, cached={"g1": (key + 1, 2, 0)})
    assert (found.base, found.base_seq, len(found.tail)) == ("session", 1, 1)
    assert read(engine, cached={"g1": (key, 2, 0)}).base == "cached"


def test_base_beyond_the_end_of_the_log_is_ignored(engine: Engine) -> None:
    put(engine, "i1")
    post(engine, [view("a")])
    key = key_of(engine)
    store(engine, key, 9)
    found = read(engine, cached={"g1": (key, 8, 0)})
    assert (found.base, len(found.tail)) == ("none", 1)


@pytest.mark.parametrize(
    ("encoder_id", "expected"), [(ENCODER, {2: [1, 2]}), ("encoder-2", {3: [3]})]
)
def test_vectors_are_those_of_the_tail_and_the_chosen_encoder(
    engine: Engine, encoder_id: str, expected: dict[int, list[float]]
) -> None:
    put_items(engine, [item("i1")], NOW_MS)
    both = {ENCODER: vector(9), "encoder-2": vector(9)}
    first = NewEvent("u1", "a", EventKind.SEARCH, text="before the base", vectors=both)
    second = NewEvent("u1", "b", EventKind.SEARCH, text="b", vectors={ENCODER: vector(1, 2)})
    third = NewEvent("u1", "c", EventKind.COMMENT, "i1", "c", vectors={"encoder-2": vector(3)})
    post(engine, [first, second, third, search("d", "no vector")])
    cached = {"g1": (key_of(engine), 1, 0)}
    found = read(engine, encoder_of={"g1": encoder_id}, cached=cached)
    assert {seq: v.tolist() for seq, v in found.text_vectors.items()} == expected
