"""`moonlark publish`: a person makes a generation live, or lets the nights publish again."""

import getpass
import json
from typing import Annotated, Any

import typer

from infra.cli.dry_run import tell, tell_hold
from infra.cli.pointer import document
from infra.cli.store import now_ms, open_store
from ray_jobs.nightly.publish import stage_and_flip
from ray_jobs.nightly.settings import NightSettings
from sql import generations
from sql.engine import read_snapshot

CLEARED = "the hold is cleared: nights publish again"


def command(
    generation: Annotated[
        str | None,
        typer.Argument(metavar="GENERATION", help="Its id (see `moonlark generations`)."),
    ] = None,
    clear_hold: Annotated[
        bool,
        typer.Option("--clear-hold", "--override-hold", help="End the hold that a rollback set."),
    ] = False,
    why: Annotated[
        str, typer.Option(help="Kept in the live pointer's history.")
    ] = "moonlark publish",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for scripts.")] = False,
) -> None:
    """Make a generation live, or clear a hold.

    Every replica loads the generation before the live pointer flips to it, so that no request
    fails. With --clear-hold the same flip ends the hold: where the generation is refused, the hold
    stays. Without a generation only the hold is ended. Ends with 1 where it is refused, or with
    --dry-run would be.
    """
    if generation is None and not clear_hold:
        raise ValueError("which generation? `moonlark generations` lists them")
    store = open_store()
    if dry_run:
        if generation is None:
            tell_hold(store, as_json=as_json)
        else:
            tell(
                store,
                generation,
                why=why,
                is_rollback=False,
                clears_hold=clear_hold,
                as_json=as_json,
            )
        return
    with read_snapshot(store.engine) as conn:
        before = generations.read_live(conn)
    held = before if clear_hold and before is not None and before.hold else None
    told: dict[str, Any] = {"hold_cleared": held is not None}
    who = getpass.getuser()
    if generation is None:
        live, line = before, "there is no hold"
        if held is not None:
            line = CLEARED
            live = generations.clear_hold(
                store.engine, expected_flip=held.flip, who=who, why=why, at_ms=now_ms()
            )
    else:
        live, waited_s, ready = stage_and_flip(
            store.engine,
            generation,
            settings=NightSettings(),
            who=who,
            why=why,
            hold=False,
            now_ms=now_ms,
            ends_hold=clear_hold,
        )
        told |= {"replicas_ready": ready, "waited_s": round(waited_s, 3)}
        if live == before:
            line = f"live already: {live.generation_id} (flip {live.flip})"
            if live.hold:
                line += f"; {live.who} set a hold: {live.why}; --clear-hold ends it"
        else:
            line = (
                f"live: {live.generation_id} (flip {live.flip}; {ready} replicas ready"
                f" after {waited_s:.1f} s; before: {live.previous or 'nothing'})"
            )
        if held is not None:
            line += f"\n{CLEARED}"
    typer.echo(json.dumps({"live": document(live), **told}, indent=2) if as_json else line)
