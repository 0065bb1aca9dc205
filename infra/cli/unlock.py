"""`moonlark unlock`: whoever holds a lock and does nothing is ended."""

import time
from typing import Annotated

import typer

from sql.engine import open_engine
from sql.locks import NO_SESSIONS, Holder, end_idle_holders
from sql.settings import StoreSettings

POLL_S = 0.2


def command(
    seconds: Annotated[
        float, typer.Option(help="Look for so long: locks come and go.", min=0, max=600)
    ] = 6.0,
) -> None:
    """End sessions that hold a lock and do nothing.

    Of Postgres: idle within a transaction that wrote, for a second while another waits; or for ten
    seconds with a lock that keeps writers from a whole table. Statements that work are left alone.
    The role must see others' sessions, as moonlark_oncall does.

    Exit status: 0, also where there was none; 1 where one was found that this role may not end.
    """
    url = StoreSettings().database_url
    if url.startswith("sqlite"):  # before it is opened, and so made
        raise ValueError(NO_SESSIONS)
    engine = open_engine(url)
    deadline_s = time.monotonic() + seconds
    found: dict[int, Holder] = {}
    while True:
        for holder in end_idle_holders(engine):
            if found.setdefault(holder.pid, holder) is holder:
                typer.echo(_line(holder))
        if time.monotonic() >= deadline_s:
            break
        time.sleep(POLL_S)
    if not found:
        typer.echo(f"looked for {seconds:g} s: nobody who does nothing holds others up")
        typer.echo("`moonlark doctor` names who does, working or not")
    if not all(holder.is_ended for holder in found.values()):
        typer.echo("ask who runs the database to end the others", err=True)
        raise typer.Exit(1)


def _line(holder: Holder) -> str:
    done = "ended" if holder.is_ended else "not ended, this role may not:"
    of = f"{holder.role}, {holder.application}" if holder.application else holder.role
    statement = " ".join(holder.statement.split())
    return f"{done} session {holder.pid} of {of}: idle for {holder.idle_s:.1f} s after {statement}"
