"""The log: numbers, retries, undo, re-rating, requests that are refused, and the daily limit."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine

from sql import event_rules
from sql.activity import hour_of
from sql.catalog import delete_item, put_items
from sql.engine import open_engine, read_snapshot
from sql.events import (
    EventKind,
    NewEvent,
    Rejected,
    append,
    effective,
    find_user,
    iterate_log,
    iterate_text_vectors,
    read_effective,
    read_tail,
    read_text_vectors,
    write_text_vector,
)
from tests.contract.activity_counts import read_activity
from tests.contract.store_builder import (
    DAY_MS,
    NOW_MS,
    item,
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
from tests.contract.store_process import EVENTS_A_ROUND, USERS

ROUNDS = 40


@pytest.fixture(autouse=True)
def _catalog(request: pytest.FixtureRequest) -> None:
    if "engine" in request.fixturenames:
        put(request.getfixturevalue("engine"), "i1", "i2")


def activity(engine: Engine) -> dict[tuple[int, str], int]:
    with read_snapshot(engine) as conn:
        return {(row.ordinal, row.kind): row.n for row in read_activity(conn, 0)}


def test_numbers_are_gapless_per_user_across_requests_and_groups(engine: Engine) -> None:
    first, second = post(
        engine,
        [view("a"), view("b", user_id="u2"), view("c")],
        [view("d"), view("e", user_id="u2")],
    )
    (third,) = post(engine, [view("f")])

    assert (seqs(first), seqs(second), seqs(third)) == ([1, 1, 2], [3, 2], [4])
    assert [(e.user_seq, e.event_id) for e in log(engine)] == [
        (1, "a"),
        (2, "c"),
        (3, "d"),
        (4, "f"),
    ]
    assert [e.event_id for e in log(engine, "u2")] == ["b", "e"]


def test_event_is_stored_as_it_was_sent_with_the_item_as_it_was(engine: Engine) -> None:
    (answer,) = put_items(engine, [item("i9", "Old title")], NOW_MS)
    post(engine, [view("a", "i9", occurred_at_ms=7, surface="home", request_id="r1")])
    post(engine, [rating("r", 0.1, "i9")])
    put_items(engine, [item("i9", "New title")], NOW_MS)
    post(engine, [view("b", "i9")])

    old, rated, new = log(engine)
    assert (old.kind, old.item_id, old.value, old.occurred_at_ms) == (EventKind.VIEW, "i9", None, 7)
    assert (rated.kind, rated.value) == (EventKind.RATING, 0.1)
    assert old.received_at_ms == NOW_MS
    assert old.ordinal == new.ordinal == answer.ordinal
    assert old.text_digest == item("i9", "Old title").text_digest
    assert new.text_digest == item("i9", "New title").text_digest


def test_retry_is_harmless_whole_in_part_and_within_a_group(engine: Engine) -> None:
    request = [view("a"), rating("b", 4.0), undo("c", "a"), search("d", "Café \u2603 'x'")]
    once, again = post(engine, request, request)
    (later,) = post(engine, [*request, view("e")])

    assert seqs(once) == seqs(again) == [1, 2, 3, 4]
    assert isinstance(again, list)
    assert isinstance(later, list)
    assert [a.duplicate for a in again] == [True] * 4
    assert [(a.user_seq, a.duplicate) for a in later] == [
        *((n, True) for n in range(1, 5)),
        (5, False),
    ]
    assert len(log(engine)) == 5
    assert sum(activity(engine).values()) == 2  # the rating and `e`; `a` was taken back


def test_retry_with_another_clock_is_the_same_event(engine: Engine) -> None:
    post(engine, [view("a", occurred_at_ms=1)])
    (answer,) = post(engine, [view("a", occurred_at_ms=2)])
    assert seqs(answer) == [1]
    assert [e.occurred_at_ms for e in log(engine)] == [1]


@pytest.mark.parametrize(
    "other",
    [
        view("a", "i2"),
        view("a", surface="home"),
        view("a", request_id="r1"),
        rating("a", 1.0),
        search("a", "text"),
        undo("a", "z"),
    ],
)
def test_same_id_with_another_body_is_a_conflict(engine: Engine, other: NewEvent) -> None:
    post(engine, [view("z"), view("a")])
    alone, within = post(engine, [other], [view("n"), other])
    assert refused(alone) == [(0, "event_id", 409)]
    assert refused(within) == [(1, "event_id", 409)]
    assert [e.event_id for e in log(engine)] == ["z", "a"]


def test_ids_are_each_users_own_and_compare_by_bytes(engine: Engine) -> None:
    users = ["Z", "a", "\u00e9", "e\u0301", "A", "\U0001f600"]
    answers = post(engine, *([view("a", user_id=user)] for user in users))
    assert [seqs(answer) for answer in answers] == [[1]] * len(users)
    assert len({key_of(engine, user) for user in users}) == len(users)


def test_undo_of_a_target_earlier_in_the_same_request(engine: Engine) -> None:
    (answer,) = post(engine, [view("a"), view("b"), undo("c", "a")])
    assert seqs(answer) == [1, 2, 3]
    assert [e.undoes_seq for e in log(engine)] == [None, None, 1]
    assert [e.event_id for e in effective(log(engine))] == ["b"]
    assert Counter(activity(engine)) == Counter({(ordinal_of(engine, "i1"), "view"): 1})


def ordinal_of(engine: Engine, item_id: str) -> int:
    return next(e.ordinal for e in log(engine) if e.item_id == item_id and e.ordinal is not None)


def test_undo_of_a_target_later_in_the_same_request_is_refused(engine: Engine) -> None:
    (answer,) = post(engine, [undo("c", "a"), view("a")])
    assert refused(answer) == [(0, "undoes", 409)]


def test_undo_twice_answers_with_the_first(engine: Engine) -> None:
    post(engine, [view("a"), undo("b", "a")])
    same, other, within = post(
        engine, [undo("b", "a")], [undo("c", "a")], [view("d"), undo("e", "d"), undo("f", "d")]
    )
    assert [seqs(same), seqs(other), seqs(within)] == [[2], [2], [3, 4, 4]]
    assert isinstance(other, list)
    assert other[0].duplicate
    assert [e.event_id for e in log(engine)] == ["a", "b", "d", "e"]


def test_undo_of_what_is_unknown_of_another_user_or_an_undo_is_refused(engine: Engine) -> None:
    post(engine, [view("a"), undo("b", "a"), view("x", user_id="u2")])
    unknown, foreign, of_undo = post(
        engine, [undo("c", "nothing")], [undo("c", "x")], [undo("c", "b")]
    )
    assert [refused(a) for a in (unknown, foreign, of_undo)] == [[(0, "undoes", 409)]] * 3
    assert len(log(engine)) == 2


def test_rating_again_supersedes_the_rating_in_force(engine: Engine) -> None:
    post(engine, [rating("a", 1.0), rating("b", 2.0), rating("other", 5.0, "i2")])
    post(engine, [rating("c", 3.0)], [rating("d", 4.0)])

    assert [e.undoes_seq for e in log(engine)] == [None, 1, None, 2, 4]
    assert [e.event_id for e in effective(log(engine))] == ["other", "d"]
    assert Counter(activity(engine).values()) == Counter({1: 2})


def test_rating_after_its_undo_supersedes_nothing_and_the_old_one_stays_gone(
    engine: Engine,
) -> None:
    post(engine, [rating("a", 1.0), rating("b", 2.0), undo("c", "b")])
    assert effective(log(engine)) == []
    assert activity(engine) == {}
    post(engine, [rating("d", 3.0)])
    assert [e.undoes_seq for e in log(engine)] == [None, 1, 2, None]
    assert [e.event_id for e in effective(log(engine))] == ["d"]


def test_what_counted_at_any_moment_can_be_read_back(engine: Engine) -> None:
    post(
        engine,
        [view("a"), rating("b", 1.0), rating("c", 2.0), undo("d", "a"), view("e"), undo("f", "c")],
    )
    history = log(engine)
    user_key = history[0].user_key
    with read_snapshot(engine) as conn:
        for until in range(1, len(history) + 1):
            for limit in (1, 2, 100):
                counted = effective(history[:until])[-limit:]
                assert read_effective(conn, user_key, until, limit) == counted
        assert read_effective(conn, user_key + 1, 6, 10) == []


def test_undo_of_a_superseded_rating_does_nothing_more(engine: Engine) -> None:
    post(engine, [rating("a", 1.0), rating("b", 2.0)])
    (answer,) = post(engine, [undo("c", "a")])
    assert isinstance(answer, list)
    assert answer[0].duplicate
    assert [e.event_id for e in effective(log(engine))] == ["b"]


def test_refused_request_stores_nothing_and_hinders_no_other(engine: Engine) -> None:
    answers = post(
        engine,
        [view("a")],
        [view("b"), rating("r", 1.0), view("c", "no such item"), view("d", user_id="u2")],
        [view("b"), undo("e", "a")],
        [view("x", user_id="only-refused"), view("y", "no such item", user_id="only-refused")],
        [undo("f", "r")],  # its target was in the refused request
    )
    assert seqs(answers[0]) == [1]
    assert refused(answers[1]) == [(2, "item_id", 404)]
    assert seqs(answers[2]) == [2, 3]
    assert refused(answers[3]) == [(1, "item_id", 404)]
    assert refused(answers[4]) == [(0, "undoes", 409)]
    assert [e.event_id for e in log(engine)] == ["a", "b", "e"]
    with read_snapshot(engine) as conn:
        assert find_user(conn, "u2") is None
        assert find_user(conn, "only-refused") is None


def test_each_problem_of_a_request_is_named_but_not_what_follows_from_one(engine: Engine) -> None:
    (answer,) = post(
        engine, [view("a", "gone"), undo("b", "a"), view("c"), undo("d", "z"), view("e", "gone")]
    )
    assert refused(answer) == [(0, "item_id", 404), (3, "undoes", 409), (4, "item_id", 404)]


@pytest.mark.parametrize(
    ("event", "field"),
    [
        (view("a", user_id=""), "user_id"),
        (view("a" * 201), "event_id"),
        (view("a\n"), "event_id"),
        (view("a", "\ud800"), "item_id"),
        (NewEvent("u1", "a", EventKind.VIEW), "item_id"),
        (rating("a", float("nan")), "value"),
        (NewEvent("u1", "a", EventKind.RATING, "i1"), "value"),
        (search("a", "nul \x00"), "text"),
        (search("a", "x" * 5_001), "text"),
        (rating("a", 5.5), "value"),
        (view("a", value=1.0), "value"),
        (view("a", surface="s" * 101), "surface"),
        (search("a", "x", e=vector(float("inf"))), "vectors"),
        (NewEvent("u1", "a", EventKind.UNDO), "undoes"),
        (view("a", occurred_at_ms=-1), "occurred_at_ms"),
    ],
)
def test_malformed_event_is_refused_beside_good_requests(
    engine: Engine, event: NewEvent, field: str
) -> None:
    good, bad, empty = post(engine, [view("good")], [view("b"), event], [])
    assert seqs(good) == [1]
    assert refused(bad) == [(1, field, 422)]
    assert empty == []
    assert [e.event_id for e in log(engine)] == ["good"]


def test_unknown_and_deleted_items_are_refused_or_kept_by_request(engine: Engine) -> None:
    delete_item(engine, "i2", None, NOW_MS)
    requests = [
        [view("a", "i2")],
        [view("b", "nothing")],
        [view("c", "i2")],
        [view("d", "nothing")],
    ]
    answers = append(
        engine, requests, received_at_ms=NOW_MS, keep_unknown_items=[False, False, True, True]
    )
    assert [refused(answer) for answer in answers[:2]] == [[(0, "item_id", 404)]] * 2
    events = log(engine)
    assert [(e.item_id, e.text_digest) for e in events] == [("i2", None), ("nothing", None)]
    assert len({e.ordinal for e in events} - {None}) == 2
    assert activity(engine) == {}
    post(engine, [undo("undo", "d")])
    assert activity(engine) == {}


def test_daily_limit(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_rules, "MAX_EVENTS_PER_USER_DAY", 3)
    post(engine, [view("a"), view("b")])
    over, fits, full, retry, other = post(
        engine,
        [view("c"), view("d")],
        [view("c")],
        [view("e")],
        [view("a"), view("c")],
        [view("a", user_id="u2")],
    )
    assert refused(over) == [(1, "user_id", 429)]
    assert seqs(fits) == [3]
    assert refused(full) == [(0, "user_id", 429)]
    assert seqs(retry) == [1, 3]
    assert seqs(other) == [1]
    # The next day is open; a clock that is behind does not open the day before again.
    assert seqs(post(engine, [view("e")], at_ms=NOW_MS + DAY_MS)[0]) == [4]
    post(engine, [view("f"), view("g")], at_ms=NOW_MS)
    assert isinstance(post(engine, [view("h")], at_ms=NOW_MS)[0], Rejected)


def test_history_is_outside_the_daily_limit_and_counts_where_it_happened(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_rules, "MAX_EVENTS_PER_USER_DAY", 2)
    past_ms = NOW_MS - 400 * DAY_MS
    past = [view(f"h{n}", occurred_at_ms=past_ms + n) for n in range(5)]
    past += [NewEvent("u1", "r", EventKind.RATING, "i2", value=1.0, occurred_at_ms=past_ms)]
    (answer,) = append(engine, [past], received_at_ms=NOW_MS, history=True)
    assert seqs(answer) == [1, 2, 3, 4, 5, 6]

    def counts(at_ms: int) -> list[int]:
        with read_snapshot(engine) as conn:
            return [row.n for row in read_activity(conn, hour_of(at_ms), hour_of(at_ms) + 1)]

    assert (counts(past_ms), counts(NOW_MS)) == ([5, 1], [])
    # An undo and a re-rating take the count off the hour where it was counted.
    (answer,) = post(engine, [undo("u", "h0"), rating("r2", 5.0, "i2")])
    assert seqs(answer) == [7, 8]  # and the limit still has room for these two
    assert (counts(past_ms), counts(NOW_MS)) == ([4], [1])
    (answer,) = post(engine, [view("one more")])
    assert refused(answer) == [(0, "user_id", 429)]


def test_activity_counts_by_hour_and_as_of(engine: Engine) -> None:
    hour_ms = event_rules.HOUR_MS
    post(engine, [view("a"), view("b", "i2")], at_ms=NOW_MS)
    post(engine, [view("c"), view("d", user_id="u2")], at_ms=NOW_MS + hour_ms)
    now = hour_of(NOW_MS)
    first, second = (ordinal_of(engine, item_id) for item_id in ("i1", "i2"))
    with read_snapshot(engine) as conn:
        assert read_activity(conn, now) == [(first, "view", 3), (second, "view", 1)]
        assert read_activity(conn, now + 1) == [(first, "view", 2)]
        assert read_activity(conn, now, now + 1) == [(first, "view", 1), (second, "view", 1)]


def test_vectors_of_texts_are_stored_with_them_and_the_first_one_stays(engine: Engine) -> None:
    post(engine, [search("a", "one", e1=vector(1, 2), e2=vector(3)), search("b", "two")])
    key = key_of(engine)
    assert write_text_vector(engine, key, 2, "e1", vector(5, 6))
    assert not write_text_vector(engine, key, 2, "e1", vector(7, 8))
    assert not write_text_vector(engine, key, 3, "e1", vector(7, 8))
    with read_snapshot(engine) as conn:
        read = read_text_vectors(conn, key, [1, 2, 3], "e1")
        walked = dict(iterate_text_vectors(conn, "e1"))
    assert {seq: v.tolist() for seq, v in read.items()} == {1: [1, 2], 2: [5, 6]}
    assert {name: v.tolist() for name, v in walked.items()} == {(key, 1): [1, 2], (key, 2): [5, 6]}
    assert all(v.dtype == np.float32 for v in read.values())


@pytest.mark.parametrize("chunk", [1, 2, 3, 100])
def test_log_is_walked_in_order_and_on_one_snapshot(engine: Engine, chunk: int) -> None:
    post(engine, *([view(f"{n}", user_id=f"u{n % 3}")] for n in range(7)))
    with read_snapshot(engine) as conn:
        chunks = iterate_log(conn, chunk=chunk)
        walked = list(next(chunks))
        post(engine, [view("late", user_id=f"u{n}") for n in range(3)])
        walked += [event for part in chunks for event in part]
    assert len(walked) == 7
    names = [(e.user_key, e.user_seq) for e in walked]
    assert names == sorted(names)
    with read_snapshot(engine) as conn:
        after = [e for part in iterate_log(conn, names[0][0], chunk) for e in part]
    assert {e.user_key for e in after} == {key for key, _ in names} - {names[0][0]}


def test_two_writing_processes_lose_double_and_skip_nothing(database_url: str) -> None:
    engine = open_engine(database_url)
    put(engine, "i1")
    script = str(Path(__file__).with_name("store_process.py"))
    writers = [
        subprocess.Popen(
            [sys.executable, script, "append", database_url, name, str(ROUNDS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in ("a", "b")
    ]
    try:
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
        for writer in writers:
            assert writer.stdin is not None
            writer.stdin.write("\n")
            writer.stdin.flush()
        # A reader that follows the log meanwhile never steps over a number.
        followed: dict[str, list[int]] = {user: [] for user in USERS}
        while any(writer.poll() is None for writer in writers) and len(followed["u1"]) < 10**6:
            follow(engine, followed)
        answers = [json.loads(writer.communicate(timeout=60)[0]) for writer in writers]
        assert [writer.returncode for writer in writers] == [0, 0]
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
    follow(engine, followed)

    half = EVENTS_A_ROUND // 2
    expected = {f"{who}-{n}-{i}" for n in range(ROUNDS) for i, who in events_of_a_round()}
    assert len(expected) == 3 * half * ROUNDS
    for user in USERS:
        stored = log(engine, user)
        assert [e.user_seq for e in stored] == list(range(1, len(expected) + 1)) == followed[user]
        assert {e.event_id for e in stored} == expected
        number = {e.event_id: e.user_seq for e in stored}
        told = [a for writer in answers for a in writer if a[0] == user]
        assert all(number[event_id] == seq for _, event_id, seq, _ in told)
        first = Counter(event_id for _, event_id, _, duplicate in told if not duplicate)
        assert first == Counter(expected)
    with read_snapshot(engine) as conn:
        assert [row.n for row in read_activity(conn, 0)] == [2 * len(expected)]
    engine.dispose()


def events_of_a_round() -> set[tuple[int, str]]:
    return {
        (i, who)
        for name in ("a", "b")
        for i, who in enumerate((name, "both") * (EVENTS_A_ROUND // 2))
    }


def follow(engine: Engine, followed: dict[str, list[int]]) -> None:
    for user_id, seen in followed.items():
        with read_snapshot(engine) as conn:
            if user := find_user(conn, user_id):
                tail = read_tail(conn, user.user_key, len(seen), 10_000)
                assert user.last_user_seq == len(seen) + len(tail)
                seen += [event.user_seq for event in tail]
                assert seen == list(range(1, len(seen) + 1))
