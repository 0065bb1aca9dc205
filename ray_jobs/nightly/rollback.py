"""Back to an earlier generation, losing nothing: today's deltas hang on it too.

The generation that was live before is still loaded on every replica, so this takes seconds; older
ones are staged first. `hold` is set: no night publishes until a person clears it
(`moonlark publish --clear-hold`).

Run: python -m ray_jobs.nightly.rollback [--to ID] --why REASON [--who NAME]
"""

import argparse
import getpass
import json
import logging
import sys
import time
from collections.abc import Callable, Sequence

from sqlalchemy import Engine

from ray_jobs.nightly.publish import stage_and_flip
from ray_jobs.nightly.settings import NightSettings
from ray_jobs.nightly.step import RESULT_MARK
from ray_jobs.nightly.workspace import NothingToDo
from sql import generations
from sql.engine import open_engine, read_snapshot
from sql.generations import LivePointer
from sql.ids import check_id
from sql.schema import check_schema
from sql.settings import StoreSettings


def now_ms() -> int:
    """Wall clock in milliseconds."""
    return time.time_ns() // 1_000_000


def rollback(
    engine: Engine,
    to: str | None,
    *,
    who: str,
    why: str,
    settings: NightSettings | None = None,
    now_ms: Callable[[], int] = now_ms,
    monotonic: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    lease_now_ms: Callable[[], int] | None = None,
) -> LivePointer:
    """Make `to` live again, with `hold`; by default what was live before the live generation was
    published (`sql.live.way_back`).

    A second call is no toggle: without `to` it goes no further than the rollback that stands. The
    same `why` is a retry, and gets the pointer as it is. `to` may be what is live: only the hold
    is set then.

    Raises:
        sql.ids.BadInput: what `to`, `who` or `why` may not be.
        NothingToDo: there is no earlier generation, or it was rolled back already.
        StageFailed: no replica can answer from it.
        sql.errors.FlipLost: somebody else moved the pointer meanwhile.
    """
    generations.check_words(who, why)
    with read_snapshot(engine) as conn:
        history = generations.live_history(conn)
    live = history[0] if history else None
    target = target_of(history, to, why)
    if to is None and live is not None and target == live.generation_id:
        return live
    pointer, _, _ = stage_and_flip(
        engine,
        target,
        settings=settings or NightSettings(),
        who=who,
        why=why,
        hold=True,
        now_ms=now_ms,
        monotonic=monotonic,
        sleep=sleep,
        lease_now_ms=lease_now_ms,
        expected_flip=live.flip if live else None,
    )
    return pointer


def target_of(history: Sequence[LivePointer], to: str | None, why: str) -> str:
    """Where `rollback` goes after these flips, the newest first; the live generation, where it went
    before for the same reason.

    Raises:
        sql.ids.BadInput, NothingToDo: as `rollback` does.
    """
    if to is not None:
        check_id("to", to)
        return to
    live = history[0] if history else None
    if live is not None and live.hold:
        if live.why == why:
            return live.generation_id
        raise NothingToDo(
            f"{live.who} rolled back to {live.generation_id} already: {live.why}",
            hint="moonlark rollback --to ID goes elsewhere, moonlark generations lists them",
        )
    target = generations.way_back(history)
    if target is None:
        raise NothingToDo("there is no generation to go back to", hint="moonlark generations")
    return target


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="make an earlier generation live again")
    parser.add_argument("--to", default=None, help="generation id; default: what was live before")
    parser.add_argument("--why", required=True, help="kept in the pointer's history")
    parser.add_argument("--who", default="", help="kept there, too; default: this Unix user")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    store_engine = open_engine(StoreSettings().database_url)
    check_schema(store_engine)
    who = arguments.who or getpass.getuser()
    result = rollback(store_engine, arguments.to, who=who, why=arguments.why)
    report = {"generation": result.generation_id, "flip": result.flip, "hold": result.hold}
    sys.stdout.write(f"{RESULT_MARK} {json.dumps(report)}\n")
