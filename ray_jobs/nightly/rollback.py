"""Back to an earlier generation, losing nothing: today's deltas hang on it too.

The generation before the live one is still loaded on every replica, so this takes seconds; older
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
from collections.abc import Callable

from sqlalchemy import Engine

from ray_jobs.nightly.publish import stage_and_flip
from ray_jobs.nightly.settings import NightSettings
from ray_jobs.nightly.step import RESULT_MARK
from ray_jobs.nightly.workspace import NothingToDo
from sql import generations
from sql.engine import open_engine, read_snapshot
from sql.generations import LivePointer
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
    """Make `to` (by default the generation before the live one) live again, with `hold`.

    A second call is no toggle: without `to` it goes no further than the rollback that stands. The
    same `why` is a retry, and gets the pointer as it is.

    Raises:
        NothingToDo: there is no earlier generation, or it was rolled back already.
        StageFailed: no replica can answer from it.
        sql.errors.FlipLost: somebody else moved the pointer meanwhile.
    """
    with read_snapshot(engine) as conn:
        live = generations.read_live(conn)
    target = target_of(live, to, why)
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


def target_of(live: LivePointer | None, to: str | None, why: str) -> str:
    """Where `rollback` goes; the live generation, where it went before for the same reason.

    Raises:
        NothingToDo: as `rollback` does.
    """
    if to is None and live is not None and live.hold:
        if live.why == why:
            return live.generation_id
        raise NothingToDo(
            f"{live.who} rolled back to {live.generation_id} already: {live.why}",
            hint="moonlark rollback --to ID goes elsewhere, moonlark generations lists them",
        )
    target = to or (live.previous if live else None)
    if target is None:
        raise NothingToDo("there is no generation to go back to", hint="moonlark generations")
    return target


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="make an earlier generation live again")
    parser.add_argument("--to", default=None, help="generation id; default: the one before")
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
