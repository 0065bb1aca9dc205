"""Step 7. Gate, seal, stage, flip: a generation goes live in one row, or not at all.

Sealing writes the manifest with the digest of every file, so that what a replica loads is what
the night made; where an object store carries the files, they are put there before the row.
Staging lets each replica load, verify and warm it while the old one answers.
Publishing and rolling back are the same compare-and-set on the live pointer.

Run: python -m ray_jobs.nightly.publish --generation ID
"""

import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from sqlalchemy import Engine

from ray_jobs.nightly.carried_work import put_generation
from ray_jobs.nightly.gate import check_gate
from ray_jobs.nightly.seal import seal, write_generation_manifest
from ray_jobs.nightly.settings import NightSettings
from ray_jobs.nightly.step import Night, Report, main
from ray_jobs.nightly.workspace import StageFailed
from sql import generations
from sql.engine import read_snapshot
from sql.errors import FlipLost
from sql.generations import LivePointer

log = logging.getLogger("moonlark.night")

POLL_S = 0.1
UNKNOWN = "unknown"
"""What was live when an export of an earlier version began."""


def publish(night: Night) -> Report:
    """Make the generation live, if it passes the gate."""
    with read_snapshot(night.engine) as conn:
        live = generations.read_live(conn)
    if live is not None and live.generation_id == night.generation_id:
        # A try before this one flipped the pointer and broke off: only the tidying is left.
        return _tidied(night, {"generation": live.generation_id, "flip": live.flip})
    manifest = write_generation_manifest(night)
    index_recall = check_gate(night)
    if night.workspace.objects is not None:  # before the row: by it replicas know what to fetch
        put_generation(night.workspace, manifest)
    seal(night, manifest, index_recall=index_recall)
    if live is not None and live.hold:
        log.warning("sealed, not published: %s set hold: %s", live.who, live.why)
        return {"generation": live.generation_id, "held_by": live.who, "held_because": live.why}
    if not night.settings.publish:
        log.warning("sealed, not published: MOONLARK_PUBLISH is off")
        return {"generation": None if live is None else live.generation_id, "published": False}
    began_under = (night.workspace.report("export") or {}).get("live_generation", UNKNOWN)
    if began_under != UNKNOWN and began_under != (live.generation_id if live else None):
        return _overtaken(live)
    try:
        pointer, waited_s, ready = stage_and_flip(
            night.engine,
            night.generation_id,
            settings=night.settings,
            who=generations.BY_NIGHT,
            why="nightly publish",
            hold=False,
            now_ms=night.now_ms,
            expected_flip=live.flip if live else 0,
            lease_now_ms=night.lease_now_ms,
            sleep=night.sleep,
            monotonic=night.monotonic,
        )
    except FlipLost:
        with read_snapshot(night.engine) as conn:
            first = generations.read_live(conn)
        if first is None or first.generation_id != night.generation_id:
            generations.unstage(night.engine, night.generation_id)
            return _overtaken(first)
        # A try of ours that was taken for dead did it.
        return _tidied(night, {"generation": first.generation_id, "flip": first.flip})
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


def _overtaken(live: LivePointer | None) -> Report:
    """Another night published while this one ran, or a person did: theirs stays, ours is sealed.

    So of two nights at once never both publish, and an old one that is taken up again does not put
    an older generation over a newer one.
    """
    assert live is not None, "the pointer never goes back to nothing"
    log.warning("sealed, not published: %s made %s live", live.who, live.generation_id)
    return {"generation": live.generation_id, "overtaken_by": live.who}


def _tidied(night: Night, report: Report) -> Report:
    """Work files, which hold rows of users, are gone."""
    night.workspace.discard_work()
    return report


@dataclass(frozen=True, slots=True)
class Waited:
    """Which replicas with a fresh lease are ready after a wait."""

    seconds: float
    ready: Collection[str]
    behind: Mapping[str, str]
    """replica id -> why it is not ready, as far as it said."""

    @property
    def lost(self) -> Mapping[str, str]:
        """Those of `behind` whose part of the generation nobody is ready with: a list would be
        without it."""
        there = set(map(generations.part_of, self.ready))
        return {
            replica: why
            for replica, why in self.behind.items()
            if generations.part_of(replica) not in there
        }


def stage_and_flip(
    engine: Engine,
    generation_id: str,
    *,
    settings: NightSettings,
    who: str,
    why: str,
    hold: bool,
    now_ms: Callable[[], int],
    expected_flip: int | None = None,
    ends_hold: bool = False,
    sleep: Callable[[float], None] = time.sleep,
    monotonic: Callable[[], float] = time.monotonic,
    lease_now_ms: Callable[[], int] | None = None,
) -> tuple[LivePointer, float, int]:
    """Stage `generation_id`, wait for the replicas, flip.

    At `stage_deadline` it flips for those that are ready; the others answer from what they hold,
    marked, and are taken out. Where no gateway is ready, or of a deployment of shards no replica
    is, nothing changes.

    Args:
        expected_flip: the flip that the caller decided upon; None: the present one.
        ends_hold: a person publishes past a hold, which ends with the same flip or stays.
        lease_now_ms: the clock of the leases; None is the database's, as it is for the replicas.

    Returns:
        the new live pointer, the seconds waited, and how many replicas were ready.

    Raises:
        StageFailed: no replica can answer from it, or from a part of it.
        sql.ids.BadInput: what `who` or `why` may not be.
        sql.errors.HoldSet: a rollback set `hold` and this is a publish.
        sql.errors.FlipLost: somebody else moved the pointer meanwhile.
    """
    generations.check_words(who, why)
    with read_snapshot(engine) as conn:
        before = generations.read_live(conn)
    flip = before.flip if before else 0
    if expected_flip is not None and flip != expected_flip:
        raise FlipLost(generation_id, expected_flip, flip)
    if before is not None and before.generation_id == generation_id:
        changes_hold = ends_hold if before.hold else hold
        if not changes_hold:
            return before, 0.0, 0  # run again after it had flipped: nothing to do
    generations.stage(engine, generation_id)
    waited = wait_for_replicas(
        engine,
        generation_id,
        deadline_s=settings.stage_deadline_s,
        lease_s=settings.lease_s,
        lease_now_ms=lease_now_ms,
        sleep=sleep,
        monotonic=monotonic,
    )
    if waited.lost:
        raise StageFailed(
            f"none of {len(waited.lost)} replicas can answer from {generation_id}: "
            f"{one_reason(waited.lost)}",
            hint="what was live stays live; `moonlark generations`, then the replicas' logs",
        )
    pointer = generations.flip(
        engine,
        generation_id,
        expected_flip=flip,
        who=who,
        why=why,
        hold=hold,
        at_ms=now_ms(),
        override=hold or ends_hold,  # only a rollback sets hold, and it may override one
    )
    log.info("live: %s (flip %d), before: %s", generation_id, pointer.flip, pointer.previous)
    return pointer, waited.seconds, len(waited.ready)


def wait_for_replicas(
    engine: Engine,
    generation_id: str,
    *,
    deadline_s: float,
    lease_s: float,
    lease_now_ms: Callable[[], int] | None,
    sleep: Callable[[float], None],
    monotonic: Callable[[], float],
) -> Waited:
    """Until every replica with a fresh lease is ready, or the deadline; no replica, no wait."""
    started = monotonic()
    lease_ms = int(lease_s * 1000)
    while True:
        with read_snapshot(engine) as conn:
            at_ms = None if lease_now_ms is None else lease_now_ms()
            replicas = generations.fresh_replicas(conn, at_ms, lease_ms)
        behind = {
            replica.replica_id: replica.refused.get(generation_id, "it has not loaded it yet")
            for replica in replicas
            if generation_id not in replica.ready
        }
        ready = [r.replica_id for r in replicas if r.replica_id not in behind]
        waited = Waited(monotonic() - started, ready, behind)
        if not behind:
            return waited
        if waited.seconds > deadline_s:
            log.warning("%d of %d replicas ready at the deadline", len(ready), len(replicas))
            return waited
        sleep(POLL_S)


def one_reason(behind: Mapping[str, str]) -> str:
    """Why replicas are behind, by the example of one, shortly."""
    replica_id, reason = min(behind.items())
    return f"{replica_id}: {reason}"


if __name__ == "__main__":
    main("publish", publish, niced=False)
