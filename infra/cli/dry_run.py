"""What `publish` and `rollback` would do: said, not done. Nothing here writes."""

import typer

from infra.cli.store import Store
from infra.doctor.artefacts import damage_in_store, damage_of, is_on
from sql import generations
from sql.engine import read_snapshot

PUBLISHABLE = ("sealed", "staged", "published")


def tell(store: Store, generation_id: str, *, is_rollback: bool, clears_hold: bool) -> None:
    """One line a fact; ends with status 1 where it would be refused.

    Whether the generation is there and whole, whether a hold stands in the way, who has it loaded.
    """
    with read_snapshot(store.engine) as conn:
        live = generations.read_live(conn)
        found = generations.get_generation(conn, generation_id)
        leases = generations.fresh_replicas(conn)
    typer.echo(f"would make live: {generation_id} (now: {live.generation_id if live else 'none'})")
    refused = []
    if found is None:
        refused.append(f"{generation_id!r} is not registered: moonlark generations")
    elif found.state not in PUBLISHABLE:
        refused.append(f"it is {found.state}, accepted is {', '.join(PUBLISHABLE)}")
    else:
        uri = store.artifact_uri
        if uri is not None and not is_on(store.artifact_root, found):
            damage = damage_in_store(uri, found)
        else:
            damage = damage_of(store.artifact_root, found)
        refused += [] if damage is None else [f"its files are damaged: {damage}"]
    if live is not None and live.generation_id == generation_id:
        typer.echo("it is live already: nothing would change")
    if live is not None and live.hold and not (is_rollback or clears_hold):
        refused.append(f"{live.who} set a hold: {live.why}; --clear-hold ends it")
    ready = sum(generation_id in lease.ready for lease in leases)
    typer.echo(f"{ready} of {len(leases)} replicas have it loaded; the others would load it first")
    if is_rollback:
        typer.echo("a hold would be set: no night publishes until moonlark publish --clear-hold")
    for reason in refused:
        typer.echo(f"would be refused: {reason}")
    if refused:
        raise typer.Exit(1)
    typer.echo("nothing was changed; without --dry-run it is done")
