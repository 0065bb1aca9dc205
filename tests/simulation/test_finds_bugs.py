"""The simulation is only worth its time if it finds bugs: each one planted here must be found.

They are bugs of the kind that such a system has: a check left out, a race opened, a copy forgotten.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from greenlet import getcurrent
from sqlalchemy import text

import infra.simulation.replica as replica
import ray_jobs.encoders.remembered as remembered
import ray_jobs.nightly.publish as nightly_publish
import serve.feedback as feedback
import serve.loaded_generation as loaded_generation
import serve.user_state as user_state
import sql.catalog_log as catalog_log
import sql.event_log as event_log
import sql.event_rules as event_rules
import sql.generations as generations
import sql.sessions as sessions
import sql.snapshot as snapshot
from infra.simulation.run import one_thread, run_seed
from infra.simulation.world import Bench, open_bench
from ray_jobs.nightly.workspace import GateRefused
from ray_jobs.shards.delta import Delta
from sql.batch import insert_into
from sql.engine import read_snapshot
from sql.errors import StoreError
from sql.events import Appended

Plant = Callable[[pytest.MonkeyPatch], None]
MAX_SEEDS = 120


def no_validity_check(patch: pytest.MonkeyPatch) -> None:
    """A base is folded on although an event after it takes back one before it."""

    def read_tail(conn: Any, user: Any, candidates: Any, max_tail: int) -> Any:
        for candidate in candidates:
            tail, truncated = snapshot._after(conn, user, candidate.user_seq, max_tail)
            tail = [replace(event, undoes_seq=None) for event in tail]
            return candidate, tail, truncated
        return snapshot._NOTHING, *snapshot._after(conn, user, 0, max_tail)

    patch.setattr(snapshot, "_read_tail", read_tail)


def delta_keeps_the_deleted(patch: pytest.MonkeyPatch) -> None:
    """A deletion does not reach the index."""
    apply = Delta.apply

    def forgetful(self: Delta, changes: Any) -> Delta:
        return apply(self, [change for change in changes if change.vector is not None])

    patch.setattr(Delta, "apply", forgetful)


def duplicates_looked_up_before_the_lock(patch: pytest.MonkeyPatch) -> None:
    """What the log knows of an event id is read before the transaction that gives the numbers."""
    append, open_book = event_log.append, event_log._open_book
    early: dict[Any, set[str]] = {}

    def early_append(engine: Any, *arguments: Any, **more: Any) -> Any:
        with read_snapshot(engine) as conn:
            early[getcurrent()] = set(conn.execute(text("SELECT event_id FROM events")).scalars())
        return append(engine, *arguments, **more)

    def stale_book(*arguments: Any) -> Any:
        book = open_book(*arguments)
        known = early.get(getcurrent())
        if known is not None:
            for key in [key for key in book.events if key[1] not in known]:
                del book.events[key]
        return book

    patch.setattr(feedback, "append", early_append)
    patch.setattr(event_log, "_open_book", stale_book)


def flip_without_compare(patch: pytest.MonkeyPatch) -> None:
    """The pointer moves from wherever it is, not from where the caller saw it."""
    flip = generations.flip

    def careless(engine: Any, to: str, *, expected_flip: int, **more: Any) -> Any:
        with read_snapshot(engine) as conn:
            live = generations.read_live(conn)
        return flip(engine, to, expected_flip=live.flip if live else 0, **more)

    patch.setattr(generations, "flip", careless)


def nights_override_holds(patch: pytest.MonkeyPatch) -> None:
    """A night publishes over the hold that a rollback set."""
    flip, publish = generations.flip, nightly_publish.publish

    def overriding(engine: Any, to: str, **more: Any) -> Any:
        return flip(engine, to, **{**more, "override": True})

    class Blind:
        @staticmethod
        def read_live(conn: Any) -> Any:
            live = generations.read_live(conn)
            return live and live._replace(hold=False)

        def __getattr__(self, name: str) -> Any:
            return getattr(generations, name)

    assert publish
    patch.setattr(generations, "flip", overriding)
    patch.setattr(nightly_publish, "generations", Blind())


def no_catch_up(patch: pytest.MonkeyPatch) -> None:
    """A request answers from the catalog as the watch last saw it."""
    catch_up = loaded_generation.LoadedGeneration.catch_up

    def lazy(self: Any, engine: Any, at_least: int | None = None) -> Any:
        return self.view if at_least is not None else catch_up(self, engine)

    patch.setattr(loaded_generation.LoadedGeneration, "catch_up", lazy)


def sessions_written_backward(patch: pytest.MonkeyPatch) -> None:
    """The last writer of a session wins, however old its session is."""

    def upsert(dialect: str) -> Any:
        statement = insert_into(dialect, sessions.sessions)
        columns = [c.name for c in sessions.sessions.c if not c.primary_key]
        return statement.on_conflict_do_update(
            index_elements=["generation_id", "user_key"],
            set_={name: statement.excluded[name] for name in columns},
        )

    patch.setattr(sessions, "_upsert_sql", upsert)


def erasure_only_said(patch: pytest.MonkeyPatch) -> None:
    """The user is told that they are forgotten, and nobody else: what is in the ledger alone the
    replicas would carry out."""

    def say(*_: Any, **__: Any) -> bool:
        return True

    patch.setattr(replica, "erase_user", say)


def late_retries_come_back(patch: pytest.MonkeyPatch) -> None:
    """Who comes back after an erasure is not known to have been erased."""
    patch.setattr(event_log, "mark_returned", lambda *_: None)


def fold_skips_an_event(patch: pytest.MonkeyPatch) -> None:
    """The first event of a longer tail is not fed."""
    fold = user_state.fold

    def skipping(encoder: Any, base: Any, events: Any) -> Any:
        return fold(encoder, base, events[1:] if len(events) > 1 else events)

    patch.setattr(user_state, "fold", skipping)


def behind_is_not_said(patch: pytest.MonkeyPatch) -> None:
    """A replica without the live generation answers as if it had it."""
    read = user_state.read_recommendation

    def hushed(*arguments: Any, **more: Any) -> Any:
        found = read(*arguments, **more)
        if found.live is None or found.generation_id is None:
            return found
        return replace(found, live=found.live._replace(generation_id=found.generation_id))

    patch.setattr(user_state, "read_recommendation", hushed)


def hidden_items_are_shown(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(remembered, "EXCLUDING_KINDS", frozenset({"dislike"}))


def digests_are_not_verified(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(loaded_generation, "verify", lambda *_: None)


def re_rating_does_not_replace(patch: pytest.MonkeyPatch) -> None:
    open_book = event_log._open_book

    def forgetful(*arguments: Any) -> Any:
        book = open_book(*arguments)
        book.ratings.clear()
        return book

    patch.setattr(event_log, "_open_book", forgetful)


def undo_keeps_the_activity(patch: pytest.MonkeyPatch) -> None:
    """What is taken back is still counted."""
    count = event_rules.Draft._count

    def only_up(self: Any, known: Any, n: int) -> None:
        if n > 0:
            count(self, known, n)

    patch.setattr(event_rules.Draft, "_count", only_up)


def acknowledged_without_commit(patch: pytest.MonkeyPatch) -> None:
    append = feedback.append

    def hopeful(engine: Any, requests: Any, **more: Any) -> Any:
        try:
            return append(engine, requests, **more)
        except StoreError:
            return [[Appended(e.event_id, 1, False) for e in request] for request in requests]

    patch.setattr(feedback, "append", hopeful)


def cache_knows_no_erasure(patch: pytest.MonkeyPatch) -> None:
    """A session in memory is used for whoever has the id now."""
    candidates = snapshot._candidates

    def trusting(conn: Any, generation_id: str, user: Any, cached: Any, *more: Any) -> Any:
        if cached is not None:
            cached = (user.user_key, *cached[1:])
        return candidates(conn, generation_id, user, cached, *more)

    patch.setattr(snapshot, "_candidates", trusting)


def gate_says_nothing(patch: pytest.MonkeyPatch) -> None:
    """A night that the gate refuses publishes all the same."""

    def lenient(night: Any) -> float:
        with suppress(GateRefused):
            return check_gate(night)
        return 1.0

    check_gate = nightly_publish.check_gate
    patch.setattr(nightly_publish, "check_gate", lenient)


def flips_wait_for_no_lease(patch: pytest.MonkeyPatch) -> None:
    """The pointer moves before the replicas can follow."""

    def impatient(*_: Any, **__: Any) -> nightly_publish.Waited:
        return nightly_publish.Waited(0.0, ["r1"], {})

    patch.setattr(nightly_publish, "wait_for_replicas", impatient)


def lower_versions_overwrite(patch: pytest.MonkeyPatch) -> None:
    """What arrives last wins, however old it is."""
    patch.setattr(catalog_log, "_is_below", lambda *_: False)
    patch.setattr(catalog_log, "_is_stale", lambda *_: False)


PLANTS: list[Plant] = [
    no_validity_check,
    delta_keeps_the_deleted,
    duplicates_looked_up_before_the_lock,
    flip_without_compare,
    nights_override_holds,
    no_catch_up,
    sessions_written_backward,
    erasure_only_said,
    late_retries_come_back,
    fold_skips_an_event,
    behind_is_not_said,
    hidden_items_are_shown,
    digests_are_not_verified,
    re_rating_does_not_replace,
    undo_keeps_the_activity,
    acknowledged_without_commit,
    cache_knows_no_erasure,
    gate_says_nothing,
    flips_wait_for_no_lease,
    lower_versions_overwrite,
]

FOUND_BY = {
    late_retries_come_back: 6,
    lower_versions_overwrite: 6,
    nights_override_holds: 12,
    digests_are_not_verified: 14,
    gate_says_nothing: 32,
    cache_knows_no_erasure: 39,
}
"""The first seed that found it, when it was last looked for: tried before all others."""


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    one_thread()
    with open_bench() as opened:
        yield opened
    logging.disable(logging.NOTSET)  # what `one_thread` silenced: other tests read logs


@pytest.mark.timeout(900)
@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_a_planted_bug_is_found(
    plant: Plant, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    seeds = [FOUND_BY[plant]] if plant in FOUND_BY else []
    found = (run_seed(seed, bench).error for seed in [*seeds, *range(MAX_SEEDS)])
    assert any(error is not None for error in found), plant.__doc__
