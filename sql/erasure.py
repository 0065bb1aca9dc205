"""Erasing a user: the users row goes, and with it each row that hangs on it."""

from dataclasses import dataclass

from sqlalchemy import Engine, Table, delete, func, select

from sql.ids import check_id
from sql.tables import events, exposures, sessions, text_vectors, users
from sql.transactions import write

PER_USER: tuple[Table, ...] = (events, text_vectors, sessions, exposures)


@dataclass(frozen=True, slots=True)
class Receipt:
    """What an erasure removed: rows by table. All zero where the user was not known."""

    user_id: str
    counts: dict[str, int]


def erase_user(engine: Engine, user_id: str) -> Receipt:
    """Erase a user in one transaction. Twice is harmless: the second receipt counts nothing.

    Events of that id that come later make a new user, with another `user_key`. The counts of
    `item_activity` name no user and stay.
    """
    check_id("user_id", user_id)
    counts = {table.name: 0 for table in (users, *PER_USER)}
    with write(engine) as conn:
        find = select(users.c.user_key).where(users.c.user_id == user_id).with_for_update()
        user_key = conn.execute(find).scalar()
        if user_key is not None:
            for table in PER_USER:
                rows = select(func.count()).where(table.c.user_key == user_key)
                counts[table.name] = conn.execute(rows).scalar_one()
            counts[users.name] = conn.execute(
                delete(users).where(users.c.user_key == user_key)
            ).rowcount
    return Receipt(user_id, counts)
