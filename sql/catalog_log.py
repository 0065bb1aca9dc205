"""Changing the catalog: put and delete, under one writer's lock (the row of `catalog_head`).

The lock makes commit order number order, so a reader that is at change n has missed none before it.
An edit keeps the ordinal; a re-created id gets a new one, for it is another item to the model. To
the users it is the same: `former_ordinals` says what it was called when they hid or saw it.
"""

import json
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Engine, Select, and_, insert, select, update

from sql.batch import batch_of, batch_rows, insert_into
from sql.ids import BadInput, check_id, is_storable
from sql.item import MAX_VERSION, DeleteOutcome, DeleteResult, ItemPut, PutOutcome, PutResult
from sql.tables import catalog_head, catalog_log, item_vectors, items, texts
from sql.transactions import write
from sql.unlisted import NEVER_PUT
from sql.vectors import to_bytes

MAX_PUTS = 10_000
MAX_FORMER_ORDINALS = 100
"""Of an id that is deleted and put again more often, the oldest are forgotten."""


class _State(NamedTuple):
    """A row of `items`; `item_id` first, as in the table."""

    item_id: str
    ordinal: int
    change_seq: int
    deleted: bool
    version: int | None
    body: str | None
    text_digest: str | None
    at_ms: int
    former_ordinals: str | None = None


class _Writer:
    """The catalog under its lock: gives numbers, gathers the rows, writes them at the end."""

    def __init__(self, conn: Connection, item_ids: Sequence[str], at_ms: int) -> None:
        self._conn, self._at_ms = conn, at_ms
        head = conn.execute(
            select(catalog_head.c.change_seq, catalog_head.c.next_ordinal).with_for_update()
        ).one()
        self._change_seq: int = head[0]
        self._next_ordinal: int = head[1]
        rows = conn.execute(
            _states_sql(conn.dialect.name), batch_rows((item_id,) for item_id in set(item_ids))
        )
        self.states = {row[0]: _State(*row) for row in rows}
        self._touched: set[str] = set()
        self._log: list[dict[str, Any]] = []

    def new_ordinal(self) -> int:
        self._next_ordinal += 1
        return self._next_ordinal - 1

    def change(self, op: str, state: _State, *, replaced_ordinal: int | None = None) -> _State:
        """Log a change that leaves the item in `state`; its number and time are filled in."""
        self._change_seq += 1
        state = state._replace(change_seq=self._change_seq, at_ms=self._at_ms)
        row = state._asdict()
        del row["deleted"], row["former_ordinals"]
        self._log.append({**row, "op": op, "replaced_ordinal": replaced_ordinal})
        return self.keep(state)

    def keep(self, state: _State) -> _State:
        """Store `state` without a change in the log."""
        self.states[state.item_id] = state
        self._touched.add(state.item_id)
        return state

    def flush(self) -> None:
        conn = self._conn
        if self._touched:
            rows = [self.states[item_id]._asdict() for item_id in sorted(self._touched)]
            conn.execute(_upsert_items_sql(conn.dialect.name), rows)
        if self._log:
            conn.execute(insert(catalog_log), self._log)
            conn.execute(
                update(catalog_head).values(
                    change_seq=self._change_seq, next_ordinal=self._next_ordinal
                )
            )


def put_items(engine: Engine, puts: Sequence[ItemPut], at_ms: int) -> list[PutResult]:
    """Put items in one transaction, in the given order; one result for each.

    A body that does not change makes no change, but a higher version is stored, and a vector that
    was missing is a change: replicas learn of it by the log.
    A version below the stored one, or equal to it with another body, or not above that of a deleted
    item, is `stale_version`: nothing of that put is stored. Raises `BadInput`.
    """
    if len(puts) > MAX_PUTS:
        raise BadInput("puts", len(puts), f"at most {MAX_PUTS} a call")
    for put in puts:
        _check(put)
    if not puts:
        return []
    with write(engine) as conn:
        writer = _Writer(conn, [put.item_id for put in puts], at_ms)
        embedded = _embedded(conn, puts)
        results = [_put(writer, put, embedded) for put in puts]
        stored = [p for p, r in zip(puts, results, strict=True) if r.outcome != "stale_version"]
        _store_texts(conn, stored)
        writer.flush()
        return results


def delete_item(engine: Engine, item_id: str, version: int | None, at_ms: int) -> DeleteResult:
    """Delete an item. Its id and version are remembered, so that no late put revives it."""
    check_id("item_id", item_id)
    _check_version(version)
    with write(engine) as conn:
        writer = _Writer(conn, [item_id], at_ms)
        state = writer.states.get(item_id)
        if state is None or state.change_seq == NEVER_PUT:
            return DeleteResult(item_id, None, 0, "absent", None)
        outcome: DeleteOutcome
        if _is_below(version, state.version):
            outcome = "stale_version"
        elif state.deleted:
            outcome = "unchanged"
            if version is not None and version != state.version:
                state = writer.keep(state._replace(version=version))
        else:
            outcome = "deleted"
            gone = state._replace(
                deleted=True, version=_newest(version, state.version), body=None, text_digest=None
            )
            state = writer.change("delete", gone)
        writer.flush()
        return DeleteResult(item_id, state.ordinal, state.change_seq, outcome, state.version)


def write_item_vectors(
    engine: Engine, encoder_id: str, vectors: Mapping[str, NDArray[np.float32]]
) -> int:
    """Store vectors by text digest; those stored before stay. Returns how many were new.

    A digest whose text is not (or no longer) known is skipped.
    """
    with write(engine) as conn:
        known = conn.execute(
            _known_texts_sql(conn.dialect.name), batch_rows((digest,) for digest in vectors)
        ).scalars()
        rows = [
            {
                "encoder_id": encoder_id,
                "text_digest": digest,
                "vector": to_bytes("vectors", vectors[digest]),
            }
            for digest in known
        ]
        return _insert_vectors(conn, rows)


def _put(writer: _Writer, put: ItemPut, embedded: AbstractSet[tuple[str, str]]) -> PutResult:
    """`embedded`: the (encoder_id, text_digest) of the puts that have their vector already."""
    state = writer.states.get(put.item_id)
    body = put.body.canonical()
    outcome: PutOutcome
    if state is not None and state.change_seq == NEVER_PUT:
        outcome = "created"  # with the ordinal under which events named it before
        new = state._replace(
            deleted=False, version=put.version, body=body, text_digest=put.text_digest
        )
        state = writer.change("put", new)
    elif state is None or state.deleted:
        if state and put.version is not None and not _is_below(state.version, put.version):
            return _result(state, "stale_version")
        outcome = "created"
        version = _newest(put.version, state.version if state else None)
        ordinal = writer.new_ordinal()
        former = _former(state) if state else None
        new = _State(put.item_id, ordinal, 0, False, version, body, put.text_digest, 0, former)
        state = writer.change("put", new, replaced_ordinal=state.ordinal if state else None)
    elif _is_stale(put.version, body, state):
        outcome = "stale_version"
    else:
        version = _newest(put.version, state.version)
        if (body, put.text_digest) != (state.body, state.text_digest):
            outcome = "updated"
            new = state._replace(version=version, body=body, text_digest=put.text_digest)
            state = writer.change("put", new)
        else:
            outcome = "unchanged"
            new = state._replace(version=version)
            if any((encoder_id, put.text_digest) not in embedded for encoder_id in put.vectors):
                state = writer.change("put", new)
            elif new != state:
                state = writer.keep(new)
    return _result(state, outcome)


def _is_stale(version: int | None, body: str, state: _State) -> bool:
    """One version is one body: what comes later under the same number is somebody's mistake."""
    if version is not None and version == state.version:
        return body != state.body
    return _is_below(version, state.version)


def _former(state: _State) -> str:
    """The ordinals of a deleted item that is put again: what it had before, and the last one."""
    before = json.loads(state.former_ordinals or "[]")
    return json.dumps([*before, state.ordinal][-MAX_FORMER_ORDINALS:])


def _result(state: _State, outcome: PutOutcome) -> PutResult:
    return PutResult(state.item_id, state.ordinal, state.change_seq, outcome, state.version)


def _is_below(version: int | None, other: int | None) -> bool:
    """Whether both are given and the first is lower."""
    return version is not None and other is not None and version < other


def _newest(version: int | None, other: int | None) -> int | None:
    return max((v for v in (version, other) if v is not None), default=None)


def _check(put: ItemPut) -> None:
    check_id("item_id", put.item_id)
    check_id("text_digest", put.text_digest)
    _check_version(put.version)
    if not is_storable(put.bert_text):
        raise BadInput("bert_text", put.bert_text, "no NUL and no lone surrogate")


def _check_version(version: int | None) -> None:
    if version is not None and not 0 <= version <= MAX_VERSION:
        raise BadInput("version", version, f"0 to {MAX_VERSION}")


def _store_texts(conn: Connection, puts: Sequence[ItemPut]) -> None:
    if not puts:
        return
    by_digest = {put.text_digest: put.bert_text for put in puts}
    conn.execute(
        insert_into(conn.dialect.name, texts).on_conflict_do_nothing(),
        [{"text_digest": digest, "text": by_digest[digest]} for digest in sorted(by_digest)],
    )
    vectors = {
        (encoder_id, put.text_digest): vector
        for put in puts
        for encoder_id, vector in put.vectors.items()
    }
    _insert_vectors(
        conn,
        [
            {"encoder_id": e, "text_digest": d, "vector": to_bytes("vectors", vectors[e, d])}
            for e, d in sorted(vectors)
        ],
    )


def _embedded(conn: Connection, puts: Sequence[ItemPut]) -> set[tuple[str, str]]:
    """Which (encoder_id, text_digest) of the puts' vectors are stored already."""
    wanted = {(e, put.text_digest) for put in puts for e in put.vectors}
    if not wanted:
        return set()
    rows = conn.execute(_embedded_sql(conn.dialect.name), batch_rows(sorted(wanted)))
    return {(row.encoder_id, row.text_digest) for row in rows}


def _insert_vectors(conn: Connection, rows: Sequence[dict[str, Any]]) -> int:
    if not rows:
        return 0
    statement = insert_into(conn.dialect.name, item_vectors).on_conflict_do_nothing()
    return int(conn.execute(statement, rows).rowcount)


@cache
def _known_texts_sql(dialect: str) -> Select[Any]:
    """Sorted, so that two writers take their locks in one order."""
    batch = batch_of(dialect, text_digest=str)
    return (
        select(texts.c.text_digest)
        .join_from(batch, texts, texts.c.text_digest == batch.c.text_digest)
        .order_by(texts.c.text_digest)
        .with_for_update(of=texts, read=True, key_share=True)
    )


@cache
def _embedded_sql(dialect: str) -> Select[Any]:
    batch = batch_of(dialect, encoder_id=str, text_digest=str)
    return select(item_vectors.c.encoder_id, item_vectors.c.text_digest).join_from(
        batch,
        item_vectors,
        and_(
            item_vectors.c.encoder_id == batch.c.encoder_id,
            item_vectors.c.text_digest == batch.c.text_digest,
        ),
    )


@cache
def _states_sql(dialect: str) -> Select[Any]:
    batch = batch_of(dialect, item_id=str)
    return select(*(items.c[name] for name in _State._fields)).join_from(
        batch, items, items.c.item_id == batch.c.item_id
    )


@cache
def _upsert_items_sql(dialect: str) -> Any:
    statement = insert_into(dialect, items)
    return statement.on_conflict_do_update(
        index_elements=["item_id"],
        set_={name: statement.excluded[name] for name in _State._fields if name != "item_id"},
    )
