"""On SQLite a large group is decided before the lock is held: what is stored is what the recipe of
the append stores, whatever another writes between the decision and the lock."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Connection, Engine

from sql import event_log
from sql.catalog import delete_item
from sql.engine import write
from sql.erasure import erase_user
from sql.erasure_ledger import Ledger
from sql.event import NewEvent
from sql.retention import Trim, trim_events
from tests.contract.random_groups import ITEMS, Told, check, groups, tell
from tests.contract.store_builder import (
    DAY_MS,
    NOW_MS,
    key_of,
    log,
    post,
    put,
    rating,
    refused,
    seqs,
    undo,
    view,
)

ACTS = 60


@pytest.fixture
def backend() -> str:
    """Postgres has a lock a user, and decides under it."""
    return "sqlite"


class Between:
    """What happens once, when the next append has decided and not yet the lock; and how many
    appends went by the recipe."""

    def __init__(self) -> None:
        self.act: Callable[[], object] | None = None
        self.by_recipe = 0

    @contextmanager
    def write(self, engine: Engine) -> Iterator[Connection]:
        act, self.act = self.act, None
        if act is not None:
            act()
        with write(engine) as conn:
            yield conn


@pytest.fixture(autouse=True)
def between(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Between:
    put(engine, *ITEMS)
    made, recipe = Between(), event_log._append_group

    def counted(*arguments: object) -> list[event_log.Answer]:
        made.by_recipe += 1
        return recipe(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(event_log, "AHEAD_EVENTS", 1)
    monkeypatch.setattr(event_log, "write", made.write)
    monkeypatch.setattr(event_log, "_append_group", counted)
    return made


def known_user(engine: Engine, between: Between) -> None:
    (answer,) = post(engine, [view("a"), rating("b", 3)])
    assert seqs(answer) == [1, 2]
    assert between.by_recipe == 1  # a user was to be made
    between.by_recipe = 0


def test_known_users_are_decided_ahead(engine: Engine, between: Between) -> None:
    known_user(engine, between)
    stored, retried, wrong = post(
        engine, [rating("c", 4), undo("d", "a")], [view("a")], [view("e", "no-such-item")]
    )
    assert seqs(stored) == [3, 4]
    assert seqs(retried) == [1]
    assert refused(wrong) == [(0, "item_id", 404)]
    assert between.by_recipe == 0
    assert [(e.event_id, e.undoes_seq) for e in log(engine)] == [
        ("a", None),
        ("b", None),
        ("c", 2),
        ("d", 1),
    ]


def test_a_group_of_which_nothing_is_new_takes_no_lock(engine: Engine, between: Between) -> None:
    known_user(engine, between)
    with write(engine):
        (answer,) = post(engine, [view("a")])
    assert seqs(answer) == [1]


def test_small_groups_and_those_that_make_something_go_by_the_recipe(
    engine: Engine, between: Between, monkeypatch: pytest.MonkeyPatch
) -> None:
    known_user(engine, between)
    post(engine, [view("c"), view("d", user_id="new")])
    assert between.by_recipe == 1
    post(engine, [view("e", "unlisted")], keep=True)
    assert between.by_recipe == 2
    monkeypatch.setattr(event_log, "AHEAD_EVENTS", 2)
    post(engine, [view("f")])
    assert between.by_recipe == 3
    assert [e.user_seq for e in log(engine)] == [1, 2, 3, 4, 5]


def test_another_append_of_the_same_user_overtakes(engine: Engine, between: Between) -> None:
    known_user(engine, between)
    between.act = lambda: post(engine, [view("both"), undo("u", "a")])
    both, undone = post(engine, [view("c"), view("both")], [undo("v", "a")])
    assert seqs(both) == [5, 3]
    assert seqs(undone) == [4], "it was undone already: the answer names by what"
    assert between.by_recipe == 1
    assert [e.event_id for e in log(engine)] == ["a", "b", "both", "u", "c"]


def test_an_append_of_another_user_does_not(engine: Engine, between: Between) -> None:
    known_user(engine, between)
    post(engine, [view("x", user_id="u2")])
    between.by_recipe = 0
    between.act = lambda: post(engine, [view("y", user_id="u2")])
    (answer,) = post(engine, [view("c")])
    assert seqs(answer) == [3]
    assert between.by_recipe == 0


def test_what_retention_takes_overtakes(engine: Engine, between: Between) -> None:
    known_user(engine, between)
    quick = Trim(pause_s=0, sleep=lambda _: None)
    between.act = lambda: trim_events(engine, NOW_MS + DAY_MS, trim=quick)
    (answer,) = post(engine, [undo("c", "a")])
    assert refused(answer) == [(0, "undoes", 409)]
    assert between.by_recipe == 1
    assert log(engine) == []


def test_an_erasure_overtakes(engine: Engine, between: Between, tmp_path: Path) -> None:
    known_user(engine, between)
    before = key_of(engine)
    ledger = Ledger.open(tmp_path)
    between.act = lambda: erase_user(engine, ledger, "u1", at_ms=NOW_MS)
    (answer,) = post(engine, [view("c"), view("a")])
    assert seqs(answer) == [1, 2], "a new user of that name, of whom nothing is known"
    assert between.by_recipe == 1
    assert key_of(engine) != before
    assert [e.event_id for e in log(engine)] == ["c", "a"]


def test_an_item_that_goes_meanwhile_was_there_when_it_was_decided(
    engine: Engine, between: Between
) -> None:
    """As on Postgres, where the catalog has no lock that an append takes."""
    known_user(engine, between)
    between.act = lambda: delete_item(engine, "i1", None, NOW_MS)
    (answer,) = post(engine, [view("c")])
    assert seqs(answer) == [3]
    (late,) = post(engine, [view("d")])
    assert refused(late) == [(0, "item_id", 404)]


@pytest.mark.parametrize("seed", range(4))
def test_random_groups_that_overtake_each_other_keep_the_log_whole(
    engine: Engine, between: Between, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    told: list[Told] = []
    overtaken = 0

    def send(requests: list[list[NewEvent]]) -> None:
        told.extend(tell(engine, requests))

    for act in range(ACTS):
        mine, others = (groups(seed, 2 * act + writer)[0] for writer in range(2))
        if rng.random() < 0.7:
            between.act = partial(send, others)
        between.by_recipe = 0
        send(mine)
        between.act = None  # where nothing was to be stored it is still there
        overtaken += between.by_recipe > 0
        check(engine, told)
    assert 0 < overtaken < ACTS
