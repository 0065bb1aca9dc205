"""Is it alive, may it be asked, what does it hold."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends
from sqlalchemy import func, select

from serve.day import Day
from serve.loaded_generation import LoadedGeneration
from serve.problems import unavailable
from serve.routes.context import day_of, from_ms
from serve.schemas.status import LiveAnswer, LoadedAnswer, ParityAnswer, ReplicaAnswer, StatusAnswer
from sql import catalog, generations
from sql.engine import read_snapshot
from sql.tables import users

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """The process answers."""
    return {"status": "alive"}


@router.get("/readyz")
async def readyz(day: Annotated[Day, Depends(day_of)]) -> dict[str, str]:
    """The replica holds the live generation and reaches the database, or 503.

    Open to anybody, so it names nothing.
    """

    def live() -> generations.LivePointer | None:
        with read_snapshot(day.engine) as conn:
            return generations.read_live(conn)

    pointer = await asyncio.to_thread(live)
    if pointer is None:
        raise unavailable("not ready", "no generation is live", "run `moonlark night`")
    if pointer.generation_id not in day.watch.loaded:
        raise unavailable(
            "not ready",
            "the live generation is not loaded here",
            "look at `refused` in /v1/status",
        )
    return {"status": "ready"}


@router.get("/v1/status")
async def status(day: Annotated[Day, Depends(day_of)]) -> StatusAnswer:
    """Live generation, watermarks, deltas and replicas: what an on-call looks at first."""
    return await asyncio.to_thread(_status, day)


def _status(day: Day) -> StatusAnswer:
    with read_snapshot(day.engine) as conn:
        now_ms = generations.database_now_ms(conn)
        pointer = generations.read_live(conn)
        parity = generations.read_parity(conn, pointer.generation_id) if pointer else None
        replicas = generations.fresh_replicas(conn, now_ms)
        catalog_seq = catalog.catalog_seq(conn)
        held = list(day.watch.loaded.values())
        registered = [generations.get_generation(conn, each.generation_id) for each in held]
        behind_ms = [each.behind_ms(conn, now_ms) for each in held]
        counted = conn.execute(
            select(func.count(), func.coalesce(func.sum(users.c.last_user_seq), 0))
        ).one()
    dropped_at_ms = day.write_behind.dropped_at_ms
    return StatusAnswer(
        live=None
        if pointer is None
        else LiveAnswer(
            generation=pointer.generation_id,
            previous=pointer.previous,
            flip=pointer.flip,
            who=pointer.who,
            why=pointer.why,
            at=from_ms(pointer.at_ms),
            hold=pointer.hold,
        ),
        catalog_seq=catalog_seq,
        events=int(counted[1]),
        users=int(counted[0]),
        replica=day.replica_id,
        loaded=[
            _loaded(each, 0 if row is None else row.event_count, waits_ms)
            for each, row, waits_ms in zip(held, registered, behind_ms, strict=True)
        ],
        refused=day.watch.refused,
        replicas=[
            ReplicaAnswer(
                replica_id=replica.replica_id,
                ready=list(replica.ready),
                heartbeat_age_ms=max(0, now_ms - replica.at_ms),
            )
            for replica in replicas
        ],
        write_behind_dropped=day.write_behind.dropped,
        write_behind_dropped_at=None if dropped_at_ms is None else from_ms(dropped_at_ms),
        troubles={
            name: from_ms(since_ms) for name, since_ms in day.counts.troubles.since_ms().items()
        },
        recent=day.counts.recent.counted(),
        keys="none" if day.keys.is_open else "required",
        parity=None if parity is None else _parity(parity),
    )


def _parity(parity: generations.Parity) -> ParityAnswer:
    return ParityAnswer(
        max_abs_diff=parity.max_abs_diff,
        users=parity.users,
        canary_min_cosine=parity.canary_min_cosine,
        canary_texts=parity.canary_texts,
        at=from_ms(parity.at_ms),
    )


def _loaded(generation: LoadedGeneration, event_count: int, behind_ms: int) -> LoadedAnswer:
    view, manifest = generation.view, generation.manifest
    return LoadedAnswer(
        generation=generation.generation_id,
        items=manifest.item_count,
        shards=manifest.shard_count,
        generation_events=event_count,
        generation_catalog_seq=manifest.catalog_seq,
        catalog_seq=view.catalog_seq,
        behind_ms=behind_ms,
        delta_items=view.delta.count,
        masked_items=len(view.delta.masked),
        unembedded_items=len(view.unembedded),
    )
