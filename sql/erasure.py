"""Erasing a user: the users row goes, and with it each row that hangs on it.

Order: lock the id, delete, enter the erasure, write the ledger, commit. A crash after the ledger
ends in an erased user too, once the ledger is applied at the next start; an erasure is acknowledged
only when both have it. Where the commit fails after the ledger was written, the caller is told to
ask again; whether he does or not, replicas apply the ledger seconds later (`serve.forgetting`), and
so does the next start.
"""

import logging
import secrets
from collections.abc import Callable, Iterator
from typing import NamedTuple

from sqlalchemy import Connection, Engine, Table, delete, func, select

from sql.batch import insert_into
from sql.erasure_ledger import Erased, Ledger
from sql.erasure_receipts import (
    PENDING,
    Receipt,
    enter,
    facts,
    read_receipt,
    settle,
    trained_on,
)
from sql.errors import StoreBusy
from sql.ids import check_id
from sql.tables import erasures, events, exposures, sessions, text_vectors, users
from sql.transactions import read_snapshot, shown, write

log = logging.getLogger(__name__)

PER_USER: tuple[Table, ...] = (events, text_vectors, sessions, exposures)

MAX_ATTEMPTS = 5
PAGE = 10_000
"""Users compared with the ledger at a time."""


class _User(NamedTuple):
    user_id: str
    user_key: int
    created_at_ms: int


def erase_user(engine: Engine, ledger: Ledger, user_id: str, *, at_ms: int) -> Receipt:
    """Erase a user. Twice is harmless: the second receipt counts nothing.

    Events of that id that happen later make a new user, with another `user_key`; those that
    happened before are refused by `append` (410). The counts of `item_activity` name no user and
    stay. Raises `StoreUnavailable` where it was not committed, or it is not known: ask again.
    """
    check_id("user_id", user_id)
    with write(engine) as conn:
        user, was_known = _lock_id(conn, user_id, at_ms)
        # Never before the user was made, by whichever clock: the ledger compares the two.
        erased_at_ms = max(at_ms, user.created_at_ms)
        entry = Erased(secrets.token_hex(16), ledger.key.hmac_of(user_id), erased_at_ms)
        weights = trained_on(conn, user.created_at_ms) if was_known else []
        removed = _remove(conn, user.user_key)
        if not was_known:
            removed[users.name] = 0
        enter(conn, [entry], facts(removed, weights))
        receipt = read_receipt(conn, entry.erasure_id)
        assert receipt is not None, "it was entered above"
        ledger.append(entry)
    return receipt


def apply_ledger(
    engine: Engine,
    ledger: Ledger,
    *,
    thorough: bool = False,
    progress: Callable[[int], object] | None = None,
) -> int:
    """Erase again whom the ledger names and this database still has; return how many.

    A database has the row of an erasure exactly if it has carried it out, so where no row is
    missing there is nothing to do (one read of both). A row whose line the ledger lost (a disk, a
    cut) is entered there again. Else all users are compared, which is
    also what `thorough` asks for; `progress` is told of each page's users. Users made after their
    erasure are others, and stay.
    """
    with read_snapshot(engine) as conn:
        rows = conn.execute(
            select(
                erasures.c.erasure_id,
                erasures.c.user_hmac,
                erasures.c.erased_at_ms,
                erasures.c.receipt,
            )
        ).all()
    # After the rows: an erasure is in the ledger before its row can be read.
    entries = ledger.read()
    done = {row[0] for row in rows if row[3] != PENDING}
    named = {entry.erasure_id for entry in entries}
    for lost in [Erased(*row[:3]) for row in rows if row[0] not in named]:
        log.error("%s lacked erasure %s: entered again", ledger.path, lost.erasure_id)
        ledger.append(lost)
        entries.append(lost)
    if not entries:
        return 0
    pending = [entry for entry in entries if entry.erasure_id not in done]
    if not pending and not thorough:
        return 0
    with write(engine) as conn:
        # First, so that who comes back meanwhile with an event of the past is refused.
        enter(conn, pending, PENDING)
    newest: dict[str, Erased] = {}
    for entry in entries:
        if entry.user_hmac not in newest or entry.erased_at_ms > newest[entry.user_hmac][2]:
            newest[entry.user_hmac] = entry
    erased = 0
    for page in _pages(engine):
        for user in page:
            found = newest.get(ledger.key.hmac_of(user.user_id))
            if found is not None and user.created_at_ms <= found.erased_at_ms:
                with write(engine) as conn:
                    weights = trained_on(conn, user.created_at_ms)
                    settle(conn, found.erasure_id, facts(_remove(conn, user.user_key), weights))
                erased += 1
        if progress is not None:
            progress(len(page))
    with write(engine) as conn:
        for entry in pending:
            nothing = facts(dict.fromkeys(_TABLE_NAMES, 0), [])
            settle(conn, entry.erasure_id, nothing, only_pending=True)
    return erased


_TABLE_NAMES = [table.name for table in (users, *PER_USER)]


def _lock_id(conn: Connection, user_id: str, now_ms: int) -> tuple[_User, bool]:
    """The user's locked row, and whether there was one.

    An unknown user is inserted first: an append that is about to make him is then waited for, or
    waits, and sees the erasure. No event of before slips in between.
    """
    row = {
        "user_id": user_id,
        "user_key": secrets.randbits(63),
        "last_user_seq": 0,
        "day": 0,
        "day_count": 0,
        "created_at_ms": now_ms,
    }
    statement = insert_into(conn.dialect.name, users).on_conflict_do_nothing()
    for _ in range(MAX_ATTEMPTS):
        was_known = conn.execute(statement, row).rowcount == 0
        find = select(users.c.user_id, users.c.user_key, users.c.created_at_ms)
        found = conn.execute(find.where(users.c.user_id == user_id).with_for_update()).first()
        if found is not None:  # else another erasure took the row in between
            return _User(*found), was_known
    raise StoreBusy(shown(conn.engine), f"the user was erased {MAX_ATTEMPTS} times meanwhile")


def _remove(conn: Connection, user_key: int) -> dict[str, int]:
    """Delete the user; rows by table. Nothing where another was quicker."""
    conn.execute(select(users.c.user_key).where(users.c.user_key == user_key).with_for_update())
    removed = {
        table.name: conn.execute(
            select(func.count()).where(table.c.user_key == user_key)
        ).scalar_one()
        for table in PER_USER
    }
    removed[users.name] = conn.execute(delete(users).where(users.c.user_key == user_key)).rowcount
    return removed


def _pages(engine: Engine) -> Iterator[list[_User]]:
    after = ""
    while True:
        with read_snapshot(engine) as conn:
            rows = conn.execute(
                select(users.c.user_id, users.c.user_key, users.c.created_at_ms)
                .where(users.c.user_id > after)
                .order_by(users.c.user_id)
                .limit(PAGE)
            ).all()
        if not rows:
            return
        yield [_User(*row) for row in rows]
        after = rows[-1][0]


__all__ = ["PER_USER", "Receipt", "apply_ledger", "erase_user"]
