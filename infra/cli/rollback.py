"""`moonlark rollback`: one command back, with today's events and items kept."""

import getpass
from typing import Annotated

import typer

from infra.cli.store import open_store
from ray_jobs.nightly.rollback import rollback


def command(
    why: Annotated[str, typer.Option(help="The reason, kept in the live pointer's history.")],
    to: Annotated[
        str | None, typer.Option(help="The generation's id; default the one before the live one.")
    ] = None,
) -> None:
    """Make an earlier generation live again.

    Takes seconds for the one before, minutes for older ones. Events and items of today stay in
    force. A hold is set: no night publishes until `moonlark publish --clear-hold`.
    """
    pointer = rollback(open_store().engine, to, who=getpass.getuser(), why=why)
    typer.echo(f"live: {pointer.generation_id} (flip {pointer.flip}), hold set")
    typer.echo("next: moonlark publish --clear-hold, when the reason is gone")
