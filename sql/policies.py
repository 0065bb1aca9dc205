"""Policies: stored, deleted and read. Their head, `policy_seq`, is in the row of `catalog_head`.

That row is the lock of the writers too, so a reader that is at policy_seq n has missed none before
it; every recommendation reads it, which is how a replica learns that it must read them again.
"""

from functools import cache
from typing import Any, Literal, NamedTuple

from sqlalchemy import Connection, Engine, bindparam, delete, func, select, update

from sql.batch import insert_into
from sql.errors import TooManyPolicies
from sql.ids import check_id
from sql.policy import MAX_POLICIES, POLICY, Policy, PolicyBody
from sql.tables import catalog_head, policies
from sql.transactions import write

PutOutcome = Literal["created", "updated", "unchanged"]


class PutPolicy(NamedTuple):
    """What a put came to. `policy_seq`: every recommendation at or above it reflects the policy."""

    policy_seq: int
    outcome: PutOutcome


_COLUMNS = (policies.c.policy_id, policies.c.body, policies.c.policy_seq, policies.c.at_ms)
_ALL = select(*_COLUMNS).order_by(policies.c.policy_id).limit(MAX_POLICIES)
_ONE = select(*_COLUMNS).where(policies.c.policy_id == bindparam("policy_id"))
_SEQ = select(catalog_head.c.policy_seq)


def put_policy(engine: Engine, policy_id: str, body: PolicyBody, at_ms: int) -> PutPolicy:
    """Store a policy under its id, in place of the one that was there. The same again is no change.

    Raises `TooManyPolicies` for a new one beyond `MAX_POLICIES`, `BadInput` for the id.
    """
    check_id("policy_id", policy_id)
    text = body.model_dump_json()
    with write(engine) as conn:
        seq = _lock(conn)
        stored = conn.execute(_ONE, {"policy_id": policy_id}).first()
        if stored is not None and stored[1] == text:
            return PutPolicy(stored[2], "unchanged")
        if stored is None and _count(conn) >= MAX_POLICIES:
            raise TooManyPolicies(MAX_POLICIES)
        row = {
            "policy_id": policy_id,
            "kind": body.kind,
            "body": text,
            "policy_seq": seq + 1,
            "at_ms": at_ms,
        }
        conn.execute(_upsert_sql(conn.dialect.name), row)
        _advance(conn, seq + 1)
        return PutPolicy(seq + 1, "created" if stored is None else "updated")


def delete_policy(engine: Engine, policy_id: str) -> int | None:
    """Delete a policy; the `policy_seq` from which on it is gone, None where there was none."""
    check_id("policy_id", policy_id)
    with write(engine) as conn:
        seq = _lock(conn)
        gone = conn.execute(delete(policies).where(policies.c.policy_id == policy_id)).rowcount
        if not gone:
            return None
        _advance(conn, seq + 1)
        return seq + 1


def read_policies(conn: Connection) -> list[Policy]:
    """All of them, by id."""
    return [_policy(row) for row in conn.execute(_ALL)]


def read_policy(conn: Connection, policy_id: str) -> Policy | None:
    """One of them."""
    row = conn.execute(_ONE, {"policy_id": policy_id}).first()
    return None if row is None else _policy(row)


def read_policy_seq(conn: Connection) -> int:
    """The number of the last change of any policy, 0 before the first."""
    return int(conn.execute(_SEQ).scalar_one())


def _lock(conn: Connection) -> int:
    return int(conn.execute(_SEQ.with_for_update()).scalar_one())


def _advance(conn: Connection, seq: int) -> None:
    conn.execute(update(catalog_head).values(policy_seq=seq))


def _count(conn: Connection) -> int:
    return int(conn.execute(select(func.count()).select_from(policies)).scalar_one())


def _policy(row: Any) -> Policy:
    return Policy(row[0], POLICY.validate_json(row[1]), row[2], row[3])


@cache
def _upsert_sql(dialect: str) -> Any:
    statement = insert_into(dialect, policies)
    names = ("kind", "body", "policy_seq", "at_ms")
    return statement.on_conflict_do_update(
        index_elements=["policy_id"], set_={name: statement.excluded[name] for name in names}
    )
