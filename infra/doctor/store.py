"""The database: does it answer, safely; what is live, who can answer from it, how nights ended."""

import time
from collections.abc import Iterator
from contextlib import suppress

from sqlalchemy import Engine, text

from infra.doctor.day import Known
from infra.doctor.findings import Finding, Look, NotSeen, looked
from serve import metric_names
from serve.readings import FIGURES, holder, unmended, verified_at_ms, why_failed
from sql import activity, catalog, erasure_receipts, generations
from sql.engine import open_engine, read_snapshot
from sql.errors import SchemaBehind, StoreError, StoreUnavailable, UnsafeDatabase
from sql.event_rules import HOUR_MS
from sql.generations import Generation, LivePointer
from sql.schema import check_schema

STATEMENT_TIMEOUT_S = 5.0
MAX_QUIET_MS = HOUR_MS + HOUR_MS // 4
"""The alert's hour, and the quarter for which that is to be so."""
MAX_AGE_MS = 36 * HOUR_MS
MAX_UNVERIFIED_MS = 3 * HOUR_MS
MAX_SILENT_MS = 8 * HOUR_MS
MAX_OPEN_MS = 36 * HOUR_MS
WEEK_MS = 7 * 24 * HOUR_MS
MIN_NDCG_SHARE = 0.7
MIN_RECALL = 0.95
MIN_COSINE = 0.9999
MAX_DIFF = 1e-5
"""As the alerts have them (infra/prometheus/rules.yaml)."""

NDCG = FIGURES[metric_names.NDCG]
RUNBOOKS = {"gate": "GateRefused", "data": "NightDataRefused"}
BLOCKER_PAUSES_S = (0.2, 0.4, 0.6)
UNCHECKED = "The night's generation is live, and was not checked to the end."
WITHOUT_GENERATION = "Lists are answered 503 until the first generation is published."
WORDS = 300
"""Characters of a reason: one page is to hold all."""

_BLOCKERS = text(
    "SELECT pid, CAST(EXTRACT(EPOCH FROM xact_start) * 1000 AS BIGINT) FROM pg_stat_activity"
    " WHERE pid IN (SELECT unnest(pg_blocking_pids(waiting.pid)) FROM pg_stat_activity AS waiting"
    "  WHERE waiting.wait_event_type = 'Lock' AND waiting.datname = current_database()"
    "  AND clock_timestamp() - waiting.query_start > interval '500 milliseconds')"
    " ORDER BY xact_start"
)


def open_store(database_url: str) -> tuple[Engine | None, Look]:
    """The database, None where it does not answer or may not be used."""
    try:
        engine = open_engine(database_url, statement_timeout_s=STATEMENT_TIMEOUT_S)
        check_schema(engine)
    except UnsafeDatabase as error:
        what = f"a committed write may be lost: {error}"
        return None, looked("", Finding("DatabaseGone", what))
    except SchemaBehind as error:
        return None, looked("", Finding("NothingAnswers", str(error)))
    except ValueError as error:  # an URL that is none
        return None, Look(not_seen=(NotSeen("the database", str(error)),))
    except StoreUnavailable as error:
        return None, looked("", Finding("DatabaseGone", f"the database does not answer: {error}"))
    return engine, looked("database answers, each commit is synced")


def known_to(engine: Engine) -> Known:
    """Since when, as far as the database says it."""

    def changed_ms(watermark: int, changes: int) -> int | None:
        with suppress(StoreError), read_snapshot(engine) as conn:
            return catalog.next_change_at_ms(conn, watermark + changes - 1)
        return None

    with read_snapshot(engine) as conn:
        replicas = len(generations.fresh_replicas(conn))
        last_ms = None if replicas else generations.last_heard_ms(conn)
    return Known(last_ms, replicas, changed_ms)


def look_at_store(engine: Engine) -> Look:
    """The registry, the pointer, the leases."""
    try:
        with read_snapshot(engine) as conn:
            now_ms = generations.database_now_ms(conn)
            history = generations.live_history(conn)
            known = generations.list_generations(conn)
            leases = generations.fresh_replicas(conn)
            open_since_ms = erasure_receipts.open_since_ms(conn)
        last_event_ms = activity.last_event_ms(engine, now_ms)
        blockers = _blockers(engine)
    except StoreError as error:
        found = Finding("DatabaseGone", f"the database stopped answering: {error}")
        return looked("", found)
    pointer = next(iter(history), None)
    live = next((g for g in known if pointer and g.generation_id == pointer.generation_id), None)
    look = looked("no lock holds up the writers", *blockers)
    come = "events come in" if last_event_ms is not None else "no event came in yet"
    look += looked(come, _events(last_event_ms, now_ms))
    look += looked("erasures are completed", _erasures(open_since_ms, now_ms))
    nights = "the last nights" if known else "no night began yet"
    look += looked(nights, *_nights(live, known), _stuck(live, known, now_ms))
    if pointer is None or live is None:
        what = "no generation was ever published"
        return look + looked("", Finding("GenerationOld", what, users_see=WITHOUT_GENERATION))
    look += looked("no hold", _hold(pointer)) + looked("generation age", _age(live, now_ms))
    look += looked("the hourly look at it", _last_look(pointer, live, now_ms))
    look += looked("parity and recall", *_figures(live))
    look += looked("accuracy", _accuracy(live, known, history, now_ms))
    if not leases:
        return look + Look(not_seen=(NotSeen("replicas", "none holds a lease here"),))
    return look + looked("every replica answers from it", *_replicas(pointer, leases))


def _blockers(engine: Engine) -> list[Finding]:
    """Sessions that hold up others. One may let go for a moment and take its lock again."""
    if engine.dialect.name != "postgresql":
        return []
    for pause_s in (0.0, *BLOCKER_PAUSES_S):
        time.sleep(pause_s)
        with read_snapshot(engine) as conn:
            rows = conn.execute(_BLOCKERS).all()
        if rows:
            break
    said = "session {} holds a lock that others wait for"
    return [Finding("EventsNotStored", said.format(pid), since_ms) for pid, since_ms in rows]


def _events(last_event_ms: int | None, now_ms: int) -> Finding | None:
    if last_event_ms is None or now_ms - last_event_ms <= MAX_QUIET_MS:
        return None
    hours = (now_ms - last_event_ms) / HOUR_MS
    return Finding("EventsStopped", f"no event came in for {hours:.1f} hours", last_event_ms)


def _erasures(open_since_ms: int | None, now_ms: int) -> Finding | None:
    if open_since_ms is None or now_ms - open_since_ms <= MAX_OPEN_MS:
        return None
    hours = (now_ms - open_since_ms) / HOUR_MS
    what = f"an erasure was asked for {hours:.0f} hours ago, and copies are not rewritten yet"
    return Finding("ErasureOpen", what, open_since_ms)


def _nights(live: Generation | None, known: list[Generation]) -> Iterator[Finding]:
    """The last one of each kind, of those that nothing published has mended."""
    told = set()
    nights = unmended(live, known)
    for generation in sorted(nights, key=lambda each: each.created_at_ms, reverse=True):
        why = why_failed(generation)
        runbook = RUNBOOKS.get(why or "", "NightFailed")
        if why is not None and runbook not in told:
            told.add(runbook)
            yield _failed(runbook, generation, is_live=generation == live)


def _failed(runbook: str, generation: Generation, *, is_live: bool) -> Finding:
    left = generation.unfinished
    if generation.state == "failed" or left is None:
        reason = (generation.failed_reason or "")[:WORDS]
        at_ms = generation.metrics.get("failed_at_ms", generation.created_at_ms)
        return Finding(runbook, f"{generation.generation_id}: {reason}", at_ms)
    what = f"{generation.generation_id}: after its publish, {left.step}: {left.reason}"[:WORDS]
    return Finding(runbook, what, left.at_ms, UNCHECKED if is_live else None)


def _stuck(live: Generation | None, known: list[Generation], now_ms: int) -> Finding | None:
    """Of those that nothing published has mended, the one that is silent the longest."""
    building = [g for g in unmended(live, known) if g.state == "building"]
    longest = min(building, key=lambda each: each.reported_at_ms, default=None)
    if longest is None or now_ms - longest.reported_at_ms <= MAX_SILENT_MS:
        return None
    hours = (now_ms - longest.reported_at_ms) / HOUR_MS
    what = f"{longest.generation_id} is building, and no step of it was heard of for {hours:.0f} h"
    return Finding("NightStuck", what, longest.reported_at_ms)


def _hold(pointer: LivePointer) -> Finding | None:
    if not pointer.hold:
        return None
    what = f"no night publishes: {pointer.who} set a hold: {pointer.why}"[:WORDS]
    name = "NightRolledBack" if holder(pointer) == "night" else "HoldSet"
    return Finding(name, what, pointer.at_ms)


def _last_look(pointer: LivePointer, live: Generation, now_ms: int) -> Finding | None:
    """What `verify_live` found, and whether it came."""
    found, looked_ms = live.verified, verified_at_ms(pointer, live)
    if found is not None and found.broken is not None:
        what = f"{live.generation_id}: {found.broken}"[:WORDS]
        return Finding("LiveBroken", what, found.at_ms)
    if now_ms - looked_ms <= MAX_UNVERIFIED_MS:
        return None
    hours = (now_ms - looked_ms) / HOUR_MS
    what = f"verify_live did not look at {live.generation_id} for {hours:.1f} hours"
    return Finding("LiveBroken", what, looked_ms)


def _age(live: Generation, now_ms: int) -> Finding | None:
    hours = (now_ms - live.created_at_ms) / HOUR_MS
    if now_ms - live.created_at_ms <= MAX_AGE_MS:
        return None
    what = f"{live.generation_id} is {hours:.0f} hours old"
    return Finding("GenerationOld", what, live.created_at_ms + MAX_AGE_MS)


def _figures(live: Generation) -> Iterator[Finding]:
    metrics = live.metrics
    difference, cosine = metrics.get("parity_max_abs_diff"), metrics.get("canary_min_cosine")
    at_ms = metrics.get("parity_at_ms")
    if difference is not None and not difference <= MAX_DIFF:
        yield Finding("ParityBroken", f"user vectors are {difference:.1e} apart", at_ms)
    if cosine is not None and not cosine >= MIN_COSINE:
        yield Finding("ParityBroken", f"a text embedded again has cosine {cosine:.6f}", at_ms)
    recall = metrics.get("index_recall")
    if recall is not None and not recall >= MIN_RECALL:
        yield Finding("IndexRecallLow", f"recall@100 is {recall:.3f}", live.created_at_ms)


def _accuracy(
    live: Generation, known: list[Generation], history: list[LivePointer], now_ms: int
) -> Finding | None:
    """Against the best that was live this week."""
    lived = {flip.generation_id for flip in history if flip.at_ms > now_ms - WEEK_MS}
    figures = [g.metrics.get(NDCG) for g in known if g.generation_id in lived]
    best = max((figure for figure in figures if figure is not None), default=None)
    figure = live.metrics.get(NDCG)
    if figure is None or best is None or not figure < MIN_NDCG_SHARE * best:
        return None
    what = f"NDCG@10 of {live.generation_id} is {figure:.3f}; the best of the week had {best:.3f}"
    return Finding("AccuracyDropped", what, live.created_at_ms)


def _replicas(pointer: LivePointer, leases: list[generations.Replica]) -> Iterator[Finding]:
    live = pointer.generation_id
    refusing = [lease for lease in leases if live in lease.refused]
    behind = [lease for lease in leases if live not in lease.ready and live not in lease.refused]
    if refusing:
        reason = refusing[0].refused[live][:WORDS]
        what = f"{len(refusing)} of {len(leases)} replicas refuse {live}: {reason}"
        yield Finding("LiveGenerationRefused", what, pointer.at_ms)
    if behind:
        what = f"{len(behind)} of {len(leases)} replicas have not loaded {live}"
        yield Finding("ReplicasBehind", what, pointer.at_ms)
