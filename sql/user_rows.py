"""Rows of users as an append needs them: inserted and locked, both in the byte order of the ids."""

import secrets
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    Select,
    bindparam,
    case,
    delete,
    literal_column,
    select,
    text,
    update,
)

from sql.batch import batch_of, batch_rows, insert_into
from sql.erasure_ledger import ErasureKey
from sql.erasure_receipts import erased_before
from sql.event_rules import UserState
from sql.prepared import fetch
from sql.tables import users


def insert_users(conn: Connection, user_ids: Sequence[str], now_ms: int) -> list[str]:
    """Insert those who are missing, in byte order; return them."""
    rows = [(user_id, secrets.randbits(63)) for user_id in user_ids]
    parameters = {**batch_rows(rows), "now_ms": now_ms}
    return [row[0] for row in fetch(conn, _insert_users_sql(conn.dialect.name), parameters)]


@cache
def _insert_users_sql(dialect: str) -> Any:
    batch = batch_of(dialect, user_id=str, user_key=int)
    zero = literal_column("0", BigInteger)
    rows = (
        select(
            batch.c.user_id,
            batch.c.user_key,
            zero,
            zero,
            zero,
            bindparam("now_ms", type_=users.c.created_at_ms.type),
        )
        # SQLite cannot tell ON CONFLICT from a join's ON without a WHERE.
        .where(text("1 = 1"))
        .order_by(batch.c.user_id)
    )
    names = ["user_id", "user_key", "last_user_seq", "day", "day_count", "created_at_ms"]
    return (
        insert_into(dialect, users)
        .from_select(names, rows)
        .on_conflict_do_nothing()
        .returning(users.c.user_id)
    )


def mark_returned(conn: Connection, created: Sequence[str], erasures: ErasureKey) -> None:
    """Note of the new users who were erased earlier, when that was.

    They count as made after it, whatever this replica's clock says: the ledger goes by that.
    """
    hmacs = {erasures.hmac_of(user_id): user_id for user_id in created}
    rows = [
        {"id": hmacs[user_hmac], "before_ms": before_ms}
        for user_hmac, before_ms in erased_before(conn, hmacs).items()
    ]
    if rows:
        conn.execute(_MARK_RETURNED, rows)


_BEFORE_MS = bindparam("before_ms", type_=BigInteger)
_MARK_RETURNED = (
    update(users)
    .where(users.c.user_id == bindparam("id"))
    .values(
        erased_before_ms=_BEFORE_MS,
        created_at_ms=case(
            (users.c.created_at_ms > _BEFORE_MS, users.c.created_at_ms), else_=_BEFORE_MS + 1
        ),
    )
)


def lock_users(conn: Connection, user_ids: Sequence[str]) -> dict[str, tuple[int, UserState]]:
    """(user_key, counters) of those of `user_ids` who are there, locked in that order."""
    parameters = batch_rows((user_id,) for user_id in user_ids)
    rows = fetch(conn, _lock_users_sql(conn.dialect.name), parameters)
    return {row[0]: (row[1], UserState(*row[2:])) for row in rows}


@cache
def _lock_users_sql(dialect: str) -> Select[Any]:
    batch = batch_of(dialect, user_id=str)
    return (
        select(
            users.c.user_id,
            users.c.user_key,
            users.c.last_user_seq,
            users.c.day,
            users.c.day_count,
            users.c.erased_before_ms,
            users.c.trimmed_seq,
        )
        .join_from(batch, users, users.c.user_id == batch.c.user_id)
        .order_by(users.c.user_id)
        # FOR NO KEY UPDATE: writers of sessions and exposures (FOR KEY SHARE) need not wait.
        .with_for_update(of=users, key_share=True)
    )


def delete_users(conn: Connection, user_keys: Iterable[int]) -> None:
    """Take back users that were inserted for nothing."""
    conn.execute(_delete_users_sql(conn.dialect.name), batch_rows((key,) for key in user_keys))


@cache
def _delete_users_sql(dialect: str) -> Any:
    batch = batch_of(dialect, user_key=int)
    return delete(users).where(users.c.user_key.in_(select(batch.c.user_key)))
