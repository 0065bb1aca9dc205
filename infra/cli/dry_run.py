"""What `publish` and `rollback` would do: said, not done. Nothing here writes."""

import json
from collections.abc import Iterator
from typing import Any, NoReturn

import typer

from infra.cli.store import Store
from infra.doctor.artefacts import damage_in_store, damage_of, is_on
from sql import generations
from sql.engine import read_snapshot
from sql.ids import BadInput

UNCHANGED = "nothing was changed; without --dry-run it is done"
PUBLISHABLE = ("sealed", "staged", "published")


def tell(
    store: Store,
    generation_id: str,
    *,
    why: str,
    is_rollback: bool,
    clears_hold: bool,
    as_json: bool,
) -> None:
    """One line a fact, or all of them as JSON; ends with status 1 where it would be refused.

    Whether the generation is there and whole, whether a hold stands in the way, who has it loaded,
    whether `why` may be kept.
    """
    with read_snapshot(store.engine) as conn:
        live = generations.read_live(conn)
        found = generations.get_generation(conn, generation_id)
        leases = generations.fresh_replicas(conn)
    refused = list(_refusals(store, found, generation_id, why))
    now = None if live is None else live.generation_id
    held = live if live is not None and live.hold else None
    if held is not None and now != generation_id and not (is_rollback or clears_hold):
        refused.append(f"{_hold_of(held)}; --clear-hold ends it")
    sets_hold = is_rollback and not (held is not None and now == generation_id)
    ready = sum(generation_id in lease.ready for lease in leases)
    if as_json:
        document = {
            "generation": generation_id,
            "live": now,
            "replicas": len(leases),
            "replicas_ready": ready,
            "sets_hold": sets_hold,
            "clears_hold": held is not None and clears_hold,
            "refused": refused,
        }
        typer.echo(json.dumps(document, indent=2))
    else:
        typer.echo(f"would make live: {generation_id} (now: {now or 'none'})")
        if now == generation_id:
            changes_hold = sets_hold or (held is not None and clears_hold)
            what = "only the hold" if changes_hold else "nothing"
            typer.echo(f"it is live already: {what} would change")
        typer.echo(f"{ready} of {len(leases)} replicas have it loaded; the others load it first")
        if sets_hold:
            typer.echo("a hold would be set: nights publish again after publish --clear-hold")
        if held is not None and clears_hold:
            typer.echo(f"{_hold_of(held)}; it would end")
        for reason in refused:
            typer.echo(f"would be refused: {reason}")
        if not refused:
            typer.echo(UNCHANGED)
    if refused:
        raise typer.Exit(1)


def tell_hold(store: Store, *, as_json: bool) -> None:
    """Whether there is a hold that would end."""
    with read_snapshot(store.engine) as conn:
        live = generations.read_live(conn)
    held = live if live is not None and live.hold else None
    if as_json:
        document: dict[str, Any] = {
            "generation": None,
            "live": None if live is None else live.generation_id,
            "sets_hold": False,
            "clears_hold": held is not None,
            "refused": [],
        }
        typer.echo(json.dumps(document, indent=2))
    elif held is None:
        typer.echo("there is no hold: nothing would change")
    else:
        typer.echo(f"{_hold_of(held)}; it would end, and {held.generation_id} would stay live")
        typer.echo(UNCHANGED)


def tell_nowhere(live: generations.LivePointer | None, why: Exception) -> NoReturn:
    """As JSON, a rollback that has nowhere to go; ends with status 1."""
    document = {
        "generation": None,
        "live": None if live is None else live.generation_id,
        "sets_hold": True,
        "clears_hold": False,
        "refused": [str(why)],
    }
    typer.echo(json.dumps(document, indent=2))
    raise typer.Exit(1)


def _hold_of(held: generations.LivePointer) -> str:
    return f"{held.who} set a hold: {held.why}"


def _refusals(
    store: Store, found: generations.Generation | None, generation_id: str, why: str
) -> Iterator[str]:
    """Why the generation itself cannot be made live, or not in these words."""
    try:
        generations.check_words("moonlark", why)
    except BadInput as error:
        yield str(error)
    if found is None:
        yield f"{generation_id!r} is not registered: moonlark generations"
    elif found.state not in PUBLISHABLE:
        yield f"it is {found.state}, accepted is {', '.join(PUBLISHABLE)}"
    else:
        uri = store.artifact_uri
        if uri is not None and not is_on(store.artifact_root, found):
            damage = damage_in_store(uri, found)
        else:
            damage = damage_of(store.artifact_root, found)
        if damage is not None:
            yield f"its files are damaged: {damage}"
