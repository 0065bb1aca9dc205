"""The registry of generations (`sql.generation`): what each night made, and how far it came.

Each step may be run again with the same result, for a night's task is retried.
"""

import json
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from sqlalchemy import Connection, Engine, bindparam, case, delete, insert, select, update

from sql.batch import insert_into
from sql.errors import GenerationConflict, UnknownGeneration
from sql.generation import (
    REPORTED_AT,
    UNFINISHED,
    VERIFIED,
    Artifact,
    Generation,
    Parity,
    State,
    Unfinished,
    Verified,
)
from sql.ids import check_id
from sql.tables import artifacts, generations, live
from sql.transactions import write

MAX_REASON_CHARACTERS = 2_000
MAX_LISTED = 1_000

_COLUMNS = (
    generations.c.generation_id,
    generations.c.state,
    generations.c.encoder_id,
    generations.c.catalog_seq,
    generations.c.event_count,
    generations.c.user_count,
    generations.c.metrics,
    generations.c.manifest_digest,
    generations.c.created_at_ms,
    generations.c.failed_reason,
)
_GET = select(*_COLUMNS).where(generations.c.generation_id == bindparam("generation_id"))


def register(
    engine: Engine,
    generation_id: str,
    *,
    encoder_id: str,
    catalog_seq: int,
    event_count: int = 0,
    user_count: int = 0,
    created_at_ms: int,
    metrics: Mapping[str, Any] = MappingProxyType({}),
) -> Generation:
    """Enter a generation as `building`. One that is building or failed is entered anew (a retry of
    the night); one that is sealed or further on is returned as it stands."""
    check_id("generation_id", generation_id)
    row = {
        "generation_id": generation_id,
        "state": "building",
        "encoder_id": encoder_id,
        "catalog_seq": catalog_seq,
        "event_count": event_count,
        "user_count": user_count,
        "metrics": json.dumps(dict(metrics), sort_keys=True),
        "manifest_digest": None,
        "created_at_ms": created_at_ms,
        "failed_reason": None,
    }
    with write(engine) as conn:
        statement = insert_into(conn.dialect.name, generations)
        conn.execute(
            statement.on_conflict_do_update(
                index_elements=["generation_id"],
                set_={name: statement.excluded[name] for name in row if name != "generation_id"},
                where=generations.c.state.in_(("building", "failed")),
            ),
            row,
        )
        return _locked(conn, generation_id)


def seal(
    engine: Engine,
    generation_id: str,
    *,
    manifest_digest: str,
    metrics: Mapping[str, Any],
    event_count: int | None = None,
    user_count: int | None = None,
) -> Generation:
    """building -> sealed: its files are complete and `manifest_digest` names them.

    Raises `GenerationConflict` where it was sealed with another digest.
    """
    with write(engine) as conn:
        found = _locked(conn, generation_id)
        if found.state in ("sealed", "staged", "published"):
            if found.manifest_digest == manifest_digest:
                return found
            raise GenerationConflict(
                generation_id,
                f"seal as {manifest_digest}",
                f"{found.state} as {found.manifest_digest}",
                "building",
            )
        _require(found, "seal", ("building",))
        values = {
            "state": "sealed",
            "manifest_digest": manifest_digest,
            "metrics": json.dumps(dict(metrics), sort_keys=True),
            "event_count": found.event_count if event_count is None else event_count,
            "user_count": found.user_count if user_count is None else user_count,
        }
        return _set(conn, generation_id, values)


def stage(engine: Engine, generation_id: str) -> Generation:
    """sealed -> staged: replicas may load it."""
    with write(engine) as conn:
        found = _locked(conn, generation_id)
        if found.state in ("staged", "published"):
            return found
        _require(found, "stage", ("sealed",))
        return _set(conn, generation_id, {"state": "staged"})


def unstage(engine: Engine, generation_id: str) -> None:
    """staged -> sealed: replicas let it go. Any other state stays as it is."""
    with write(engine) as conn:
        conn.execute(
            update(generations)
            .where(generations.c.generation_id == generation_id, generations.c.state == "staged")
            .values(state="sealed")
        )


def add_metrics(engine: Engine, generation_id: str, metrics: Mapping[str, Any]) -> Generation:
    """Metrics that were measured later, such as parity, beside those of the seal; a name that is
    there already gets the new value. Raises `UnknownGeneration`."""
    with write(engine) as conn:
        found = _locked(conn, generation_id)
        merged = json.dumps({**found.metrics, **metrics}, sort_keys=True, allow_nan=False)
        return _set(conn, generation_id, {"metrics": merged})


def report_step(engine: Engine, generation_id: str, at_ms: int) -> None:
    """A step of its night begins or ends. Only of one that is building anybody asks for it."""
    with write(engine) as conn:
        row = conn.execute(_GET.with_for_update(), {"generation_id": generation_id}).first()
        if row is not None and (found := _generation(row)).state == "building":
            metrics = json.dumps({**found.metrics, REPORTED_AT: at_ms}, sort_keys=True)
            _set(conn, generation_id, {"metrics": metrics})


def keep_verified(engine: Engine, generation_id: str, found: Verified) -> None:
    """In place of what the look before found. Raises `UnknownGeneration`."""
    broken = None if found.broken is None else found.broken[:MAX_REASON_CHARACTERS]
    add_metrics(engine, generation_id, {VERIFIED: found._replace(broken=broken)._asdict()})


def keep_unfinished(engine: Engine, generation_id: str, found: Unfinished) -> None:
    """In place of what was said before. Raises `UnknownGeneration`."""
    told = found._replace(reason=found.reason[:MAX_REASON_CHARACTERS])
    add_metrics(engine, generation_id, {UNFINISHED: told._asdict()})


def finish_step(engine: Engine, generation_id: str, step: str) -> None:
    """That step after the publish is done: what was said of its failure is over."""
    with write(engine) as conn:
        row = conn.execute(_GET.with_for_update(), {"generation_id": generation_id}).first()
        if row is None or (found := _generation(row)).unfinished is None:
            return
        if found.unfinished.step == step:
            left = {name: value for name, value in found.metrics.items() if name != UNFINISHED}
            _set(conn, generation_id, {"metrics": json.dumps(left, sort_keys=True)})


def read_parity(conn: Connection, generation_id: str) -> Parity | None:
    """What was measured of that generation; None where it was not (yet)."""
    found = get_generation(conn, generation_id)
    if found is None or "parity_at_ms" not in found.metrics:
        return None
    metrics = found.metrics
    return Parity(
        metrics["parity_max_abs_diff"],
        metrics["parity_users"],
        metrics["canary_min_cosine"],
        metrics["canary_texts"],
        metrics["parity_at_ms"],
    )


def fail(engine: Engine, generation_id: str, reason: str) -> Generation:
    """-> failed, with the reason that the on-call reads. A published one is rolled back instead."""
    with write(engine) as conn:
        found = _locked(conn, generation_id)
        _require(found, "fail", ("building", "sealed", "staged", "failed"))
        values = {"state": "failed", "failed_reason": reason[:MAX_REASON_CHARACTERS]}
        return _set(conn, generation_id, values)


def report_try(engine: Engine, generation_id: str, reason: str) -> None:
    """A step of its night failed and is tried again: why, until then. Its state stays."""
    with write(engine) as conn:
        conn.execute(
            update(generations)
            .where(
                generations.c.generation_id == generation_id,
                generations.c.state.in_(("building", "sealed", "staged")),
            )
            .values(failed_reason=reason[:MAX_REASON_CHARACTERS])
        )


def resume(engine: Engine, generation_id: str) -> None:
    """failed -> building: the night goes on where it broke off. Any other state stays as it is, and
    what `report_try` said of it is over."""
    with write(engine) as conn:
        conn.execute(
            update(generations)
            .where(
                generations.c.generation_id == generation_id,
                generations.c.state.in_(("building", "sealed", "staged", "failed")),
                generations.c.failed_reason.is_not(None),
            )
            .values(
                state=case(
                    (generations.c.state == "failed", "building"), else_=generations.c.state
                ),
                failed_reason=None,
            )
        )


def prune(engine: Engine, generation_id: str) -> Generation:
    """-> pruned: its files may be deleted, and the rows that name them are. Refused for the live
    generation."""
    with write(engine) as conn:
        found = _locked(conn, generation_id)
        current = select(live.c.generation_id).order_by(live.c.flip.desc()).limit(1)
        if conn.execute(current).scalar() == generation_id:
            raise GenerationConflict(generation_id, "prune", "live", "one that is not live")
        if found.state != "pruned":
            found = _set(conn, generation_id, {"state": "pruned"})
        gone = select(generations.c.generation_id).where(generations.c.state == "pruned")
        # Of all that are pruned: earlier versions left the rows.
        conn.execute(delete(artifacts).where(artifacts.c.generation_id.in_(gone)))
        return found


def record_artifacts(engine: Engine, generation_id: str, files: Iterable[Artifact]) -> None:
    """Record the files of a generation that is building; what was recorded before is replaced."""
    with write(engine) as conn:
        _require(_locked(conn, generation_id), "record artifacts", ("building",))
        conn.execute(delete(artifacts).where(artifacts.c.generation_id == generation_id))
        rows = [{"generation_id": generation_id, **file._asdict()} for file in files]
        if rows:
            conn.execute(insert(artifacts), rows)


def list_artifacts(conn: Connection, generation_id: str) -> list[Artifact]:
    """The recorded files, by path."""
    rows = conn.execute(
        select(artifacts.c.path, artifacts.c.sha256, artifacts.c.size_bytes)
        .where(artifacts.c.generation_id == generation_id)
        .order_by(artifacts.c.path)
    )
    return [Artifact(*row) for row in rows]


def get_generation(conn: Connection, generation_id: str) -> Generation | None:
    """The generation of that id, None where none is registered."""
    row = conn.execute(_GET, {"generation_id": generation_id}).first()
    return _generation(row) if row else None


def list_generations(conn: Connection, limit: int = MAX_LISTED) -> list[Generation]:
    """The newest generations first."""
    rows = conn.execute(
        select(*_COLUMNS)
        .order_by(generations.c.created_at_ms.desc(), generations.c.generation_id.desc())
        .limit(limit)
    )
    return [_generation(row) for row in rows]


def lock_generation(
    conn: Connection, generation_id: str, step: str, accepted: tuple[State, ...]
) -> None:
    """Keep the generation from changing until the commit; raise unless its state is accepted."""
    _require(_locked(conn, generation_id), step, accepted)


def mark_published(conn: Connection, generation_id: str) -> None:
    """-> published, within the transaction that flips the pointer to it."""
    _set(conn, generation_id, {"state": "published"})


def _locked(conn: Connection, generation_id: str) -> Generation:
    row = conn.execute(_GET.with_for_update(), {"generation_id": generation_id}).first()
    if row is None:
        raise UnknownGeneration(generation_id)
    return _generation(row)


def _require(found: Generation, step: str, accepted: tuple[State, ...]) -> None:
    if found.state not in accepted:
        raise GenerationConflict(found.generation_id, step, found.state, " or ".join(accepted))


def _set(conn: Connection, generation_id: str, values: dict[str, Any]) -> Generation:
    conn.execute(
        update(generations).where(generations.c.generation_id == generation_id).values(values)
    )
    return _locked(conn, generation_id)


def _generation(row: Any) -> Generation:
    return Generation(
        generation_id=row[0],
        state=row[1],
        encoder_id=row[2],
        catalog_seq=row[3],
        event_count=row[4],
        user_count=row[5],
        metrics=json.loads(row[6]),
        manifest_digest=row[7],
        created_at_ms=row[8],
        failed_reason=row[9],
    )
