"""`moonlark publish`: a person makes a generation live, or lets the nights publish again."""

import getpass
from typing import Annotated

import typer
from sqlalchemy import Engine

from infra.cli.dry_run import tell
from infra.cli.store import now_ms, open_store
from ray_jobs.nightly.publish import stage_and_flip
from ray_jobs.nightly.settings import NightSettings
from sql import generations
from sql.engine import read_snapshot


def command(
    generation: Annotated[
        str | None,
        typer.Argument(metavar="GENERATION", help="Its id (see `moonlark generations`)."),
    ] = None,
    clear_hold: Annotated[
        bool,
        typer.Option(
            "--clear-hold", "--override-hold", help="End the hold that a rollback set, first."
        ),
    ] = False,
    why: Annotated[
        str, typer.Option(help="Kept in the live pointer's history.")
    ] = "moonlark publish",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="With --dry-run: as JSON, for scripts.")
    ] = False,
) -> None:
    """Make a generation live, or clear a hold.

    Every replica loads the generation before the live pointer flips to it, so that no request
    fails. With --clear-hold and no generation, only the hold is cleared. Ends with 1 where it is
    refused, or with --dry-run would be.
    """
    if generation is None and not clear_hold:
        raise ValueError("which generation? `moonlark generations` lists them")
    store = open_store()
    if dry_run:
        if generation is None:
            raise ValueError("--dry-run: of which generation? `moonlark generations` lists them")
        tell(store, generation, is_rollback=False, clears_hold=clear_hold, as_json=as_json)
        return
    engine = store.engine
    who = getpass.getuser()
    if clear_hold:
        _clear_hold(engine, who, why)
    if generation is not None:
        pointer, waited_s, ready = stage_and_flip(
            engine,
            generation,
            settings=NightSettings(),
            who=who,
            why=why,
            hold=False,
            now_ms=now_ms,
        )
        typer.echo(
            f"live: {pointer.generation_id} (flip {pointer.flip}; {ready} replicas ready"
            f" after {waited_s:.1f} s; before: {pointer.previous or 'nothing'})"
        )


def _clear_hold(engine: Engine, who: str, why: str) -> None:
    with read_snapshot(engine) as conn:
        live = generations.read_live(conn)
    if live is None or not live.hold:
        typer.echo("there is no hold")
        return
    generations.clear_hold(engine, expected_flip=live.flip, who=who, why=why, at_ms=now_ms())
    typer.echo("the hold is cleared: nights publish again")
