"""`moonlark keys`: who may ask the API for what. A key is shown once, when it is made."""

from typing import Annotated

import typer
from rich.table import Table

from infra.cli.console import console
from infra.cli.store import now_ms, open_store
from infra.cli.times import as_utc
from sql.engine import read_snapshot
from sql.keys import SCOPES, ApiKey, list_keys, make_key, new_secret, revoke_key

app = typer.Typer(
    no_args_is_help=True,
    help="Make, list and revoke API keys.\n\n"
    "While none was ever made, the API answers everything, on this machine only. Replicas know a "
    "new or a revoked key within 5 seconds.",
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="What the key is called: who has it.")]


@app.command()
def make(
    name: Name,
    scope: Annotated[list[str], typer.Option(help=f"One of {', '.join(SCOPES)}. May be repeated.")],
    rate: Annotated[
        int | None,
        typer.Option(help="Requests a minute to one replica; default is the server's.", min=1),
    ] = None,
) -> None:
    """Make a key, and print it: once, on standard output."""
    secret = new_secret()
    made = make_key(
        open_store().engine,
        secret,
        name=name,
        scopes=scope,
        requests_per_minute=rate,
        at_ms=now_ms(),
    )
    typer.echo(f"key {made.name!r} may: {_scopes(made)}. It is shown only now:", err=True)
    typer.echo(secret)


@app.command("list")
def list_() -> None:
    """Show the keys, without what is secret of them."""
    with read_snapshot(open_store().engine) as conn:
        keys = list_keys(conn)
    if not keys:
        typer.echo("no keys: the API answers everything, on this machine only")
        typer.echo("next: moonlark keys make NAME --scope admin")
        return
    table = Table(box=None, pad_edge=False)
    for column in ("name", "scopes", "requests/min", "made", "revoked"):
        table.add_column(column, no_wrap=True)
    for key in keys:
        revoked = "" if key.revoked_at_ms is None else as_utc(key.revoked_at_ms)
        rate = str(key.requests_per_minute or "")
        table.add_row(key.name, _scopes(key), rate, as_utc(key.created_at_ms), revoked)
    console.print(table)


@app.command()
def revoke(name: Name) -> None:
    """Refuse a key from now on; replicas know it within 5 seconds."""
    revoke_key(open_store().engine, name, at_ms=now_ms())
    typer.echo(f"revoked: {name}")


def _scopes(key: ApiKey) -> str:
    return ", ".join(sorted(key.scopes))
