"""Step 7. Gate, seal, stage, flip: a generation goes live in one row, or not at all.

Sealing writes the manifest with the digest of every file, so that what a replica loads is what
the night made. Staging lets each replica load, verify and warm it while the old one answers.
Publishing and rolling back are the same compare-and-set on the live pointer.

Run: python -m ray_jobs.nightly.publish --generation ID
"""

import logging
import time
from collections.abc import Callable

from sqlalchemy import Engine

from ray_jobs.nightly.gate import check_gate
from ray_jobs.nightly.prune import prune
from ray_jobs.nightly.seal import seal, write_generation_manifest
from ray_jobs.nightly.settings import NightSettings
from ray_jobs.nightly.step import Night, Report, main
from sql import generations
from sql.engine import read_snapshot
from sql.generations import LivePointer

log = logging.getLogger("moonlark.night")

POLL_S = 0.1


def publish(night: Night) -> Report:
    """Make the generation live, if it passes the gate."""
    with read_snapshot(night.engine) as conn:
        live = generations.read_live(conn)
    if live is not None and live.generation_id == night.generation_id:
        # A try before this one flipped the pointer and broke off: only the tidying is left.
        return _tidied(night, {"generation": live.generation_id, "flip": live.flip})
    manifest = write_generation_manifest(night)
    seal(night, manifest, index_recall=check_gate(night))
    if live is not None and live.hold:
        log.warning("sealed, not published: %s set hold: %s", live.who, live.why)
        return {"generation": live.generation_id, "held_by": live.who, "held_because": live.why}
    pointer, waited_s, ready = stage_and_flip(
        night.engine,
        night.generation_id,
        settings=night.settings,
        who="night",
        why="nightly publish",
        hold=False,
        now_ms=night.now_ms,
        monotonic=night.monotonic,
        sleep=night.sleep,
    )
    return _tidied(
        night,
        {
            "generation": pointer.generation_id,
            "previous": pointer.previous,
            "flip": pointer.flip,
            "replicas_ready": ready,
            "staged_s": round(waited_s, 3),
        },
    )


def _tidied(night: Night, report: Report) -> Report:
    """Old generations pruned, work files (they hold rows of users) gone."""
    report["pruned"] = prune(night)
    night.workspace.discard_work()
    return report


def stage_and_flip(
    engine: Engine,
    generation_id: str,
    *,
    settings: NightSettings,
    who: str,
    why: str,
    hold: bool,
    now_ms: Callable[[], int],
    monotonic: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[LivePointer, float, int]:
    """Stage `generation_id`, wait for the replicas, flip.

    Returns:
        the new live pointer, the seconds waited, and how many replicas were ready.

    Raises:
        sql.errors.HoldSet: a rollback set `hold` and this is a publish.
        sql.errors.FlipLost: somebody else moved the pointer meanwhile.
    """
    with read_snapshot(engine) as conn:
        before = generations.read_live(conn)
    if before is not None and before.generation_id == generation_id:
        return before, 0.0, 0  # run again after it had flipped: nothing to do
    generations.stage(engine, generation_id)
    waited_s, ready = _wait_for_replicas(engine, generation_id, settings, now_ms, monotonic, sleep)
    pointer = generations.flip(
        engine,
        generation_id,
        expected_flip=before.flip if before else 0,
        who=who,
        why=why,
        hold=hold,
        at_ms=now_ms(),
        override=hold,  # only a person's rollback sets hold, and a person may override one
    )
    log.info("live: %s (flip %d), before: %s", generation_id, pointer.flip, pointer.previous)
    return pointer, waited_s, ready


def _wait_for_replicas(
    engine: Engine,
    generation_id: str,
    settings: NightSettings,
    now_ms: Callable[[], int],
    monotonic: Callable[[], float],
    sleep: Callable[[float], None],
) -> tuple[float, int]:
    """Until every replica with a fresh lease is ready, or the deadline; no replica, no wait."""
    started = monotonic()
    lease_ms = int(settings.lease_s * 1000)
    while True:
        with read_snapshot(engine) as conn:
            replicas = generations.fresh_replicas(conn, now_ms(), lease_ms)
        ready = sum(generation_id in replica.ready for replica in replicas)
        waited_s = monotonic() - started
        if ready == len(replicas):
            return waited_s, ready
        if waited_s > settings.stage_deadline_s:
            log.warning("%d of %d replicas ready at the deadline", ready, len(replicas))
            return waited_s, ready
        sleep(POLL_S)


if __name__ == "__main__":
    main("publish", publish)
