"""What was shown, to whom, by which generation: a past answer can be explained and judged."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from pydantic_core import to_json
from sqlalchemy import Connection, Engine, Select, bindparam, select

from sql.batch import batch_of, batch_rows, insert_into
from sql.ids import BadInput, check_id
from sql.prepared import fetch, run_each
from sql.tables import exposures, users
from sql.transactions import write

MAX_EXPOSURES = 10_000


class ShownItem(NamedTuple):
    """An item as it was shown. `parts`: what its score was made of, by name; all numbers are of
    float32. `ordinal` None: stored before 0.2, which kept neither."""

    item_id: str
    score: float
    ordinal: int | None = None
    parts: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Exposure:
    """One answer. `items` in the order shown. `params`: what was asked, and what the list was
    ordered by (`basis`): JSON."""

    request_id: str
    user_key: int | None
    generation_id: str
    user_seq: int
    catalog_seq: int
    at_ms: int
    items: Sequence[ShownItem]
    degraded: Sequence[str] = ()
    params: Mapping[str, Any] = field(default_factory=dict)


_COLUMNS = (
    exposures.c.request_id,
    exposures.c.user_key,
    exposures.c.generation_id,
    exposures.c.user_seq,
    exposures.c.catalog_seq,
    exposures.c.at_ms,
    exposures.c["items"],
    exposures.c.degraded,
    exposures.c.params,
)
_NAMES = tuple(column.name for column in _COLUMNS)
_READ = select(*_COLUMNS).where(exposures.c.request_id == bindparam("request_id"))


def write_exposures(engine: Engine, shown: Sequence[Exposure]) -> int:
    """Store a buffer of exposures; return how many were new.

    Skipped: a request id that is stored already (a retry), and users erased meanwhile: what was
    shown to them must not outlive them.
    """
    if len(shown) > MAX_EXPOSURES:
        raise BadInput("exposures", len(shown), f"at most {MAX_EXPOSURES} a call")
    if not shown:
        return 0
    # All that can be made before: while SQLite's one lock is held, nobody is acknowledged.
    keys = {exposure.user_key for exposure in shown if exposure.user_key is not None}
    parameters = batch_rows((key,) for key in keys)
    rows = [_row(exposure) for exposure in sorted(shown, key=lambda e: e.request_id)]
    with write(engine) as conn:
        dialect = conn.dialect.name
        present: set[int | None] = {None}
        present.update(row[0] for row in fetch(conn, _present_sql(dialect), parameters))
        return run_each(
            conn, _insert_sql(dialect), _NAMES, (row for row in rows if row[1] in present)
        )


def read_exposure(conn: Connection, request_id: str) -> Exposure | None:
    """The exposure of that request; None where none was stored, or its user was erased."""
    row = conn.execute(_READ, {"request_id": request_id}).first()
    if row is None:
        return None
    items = [_shown(*item) for item in json.loads(row[6])]
    return Exposure(
        request_id=row[0],
        user_key=row[1],
        generation_id=row[2],
        user_seq=row[3],
        catalog_seq=row[4],
        at_ms=row[5],
        items=items,
        degraded=tuple(json.loads(row[7])),
        params=json.loads(row[8]),
    )


def _shown(
    item_id: str,
    score: float,
    ordinal: int | None = None,
    parts: Mapping[str, float] = MappingProxyType({}),
) -> ShownItem:
    """As it was shown: whatever its digits, a number was a float32."""
    widened = {name: float(np.float32(part)) for name, part in parts.items()}
    return ShownItem(item_id, float(np.float32(score)), ordinal, widened)


def _row(exposure: Exposure) -> tuple[Any, ...]:
    """The values of `_NAMES`."""
    items = [[i.item_id, float(i.score), i.ordinal, dict(i.parts)] for i in exposure.items]
    return (
        check_id("request_id", exposure.request_id),
        exposure.user_key,
        exposure.generation_id,
        exposure.user_seq,
        exposure.catalog_seq,
        exposure.at_ms,
        to_json(items).decode(),  # pydantic's writer: json takes four times as long
        json.dumps(list(exposure.degraded)),
        json.dumps(dict(exposure.params), sort_keys=True),
    )


@cache
def _insert_sql(dialect: str) -> Any:
    values: dict[str, Any] = {name: bindparam(name) for name in _NAMES}
    return insert_into(dialect, exposures).values(values).on_conflict_do_nothing()


@cache
def _present_sql(dialect: str) -> Select[Any]:
    batch = batch_of(dialect, user_key=int)
    return (
        select(users.c.user_key)
        .join_from(batch, users, users.c.user_key == batch.c.user_key)
        .order_by(users.c.user_key)
        .with_for_update(of=users, read=True, key_share=True)
    )
