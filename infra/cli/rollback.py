"""`moonlark rollback`: one command back, with today's events and items kept."""

import getpass
import json
from typing import Annotated

import typer

from infra.cli.dry_run import tell, tell_nowhere
from infra.cli.pointer import document
from infra.cli.store import open_store
from ray_jobs.nightly.rollback import rollback, target_of
from ray_jobs.nightly.workspace import NothingToDo
from sql.engine import read_snapshot
from sql.generations import live_history


def command(
    why: Annotated[str, typer.Option(help="The reason, kept in the live pointer's history.")],
    to: Annotated[
        str | None,
        typer.Option(help="The generation's id; default what was live before."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for scripts.")] = False,
) -> None:
    """Make an earlier generation live again.

    Takes seconds for the one before, minutes for older ones. Events and items of today stay in
    force. A hold is set: no night publishes until `moonlark publish --clear-hold`. What was rolled
    back from is gone back to with --to alone; --to what is live only sets the hold.

    Ends with 1 where it is refused, or with --dry-run would be.
    """
    store = open_store()
    if dry_run:
        with read_snapshot(store.engine) as conn:
            history = live_history(conn)
        try:
            target = target_of(history, to, why)
        except NothingToDo as error:
            if not as_json:
                raise
            tell_nowhere(history[0] if history else None, error)
        tell(store, target, why=why, is_rollback=True, clears_hold=False, as_json=as_json)
        return
    pointer = rollback(store.engine, to, who=getpass.getuser(), why=why)
    if as_json:
        typer.echo(json.dumps({"live": document(pointer)}, indent=2))
        return
    typer.echo(f"live: {pointer.generation_id} (flip {pointer.flip}), hold set")
    typer.echo("next: moonlark publish --clear-hold, when the reason is gone")
