"""`moonlark generations`: the registry as a table."""

import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.table import Table

from infra.cli.console import console
from infra.cli.store import open_store
from infra.cli.times import as_utc
from sql import generations
from sql.engine import read_snapshot
from sql.generations import Generation, LivePointer


def command(
    limit: Annotated[int, typer.Option(help="How many, the newest first.", min=1, max=1000)] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for scripts.")] = False,
) -> None:
    """List what the nights made.

    The newest first, an asterisk at the live one. States: building, sealed (complete), staged
    (replicas load it), published (was or is live), failed (with the reason), pruned (its files
    are gone). What "is tried again" is a step that Airflow tries again; of what "is
    unfinished after its publish" a check or the pruning failed, and `moonlark night --generation`
    goes on.

    `day`: NDCG@10 of the day on which it was live, and what its lists would have been
    worth without what came by day (the next night measures both). `parity`: how far user vectors
    of the day were from the night's, at most.

    Exit status: 0 also where a generation failed or none is there (what is wrong says `moonlark
    doctor`); 1 where the database does not answer.
    """
    with read_snapshot(open_store().engine) as conn:
        live = generations.read_live(conn)
        found = generations.list_generations(conn)[:limit]
    if as_json:
        rows = [_row(generation, live) for generation in found]
        typer.echo(json.dumps({"generations": rows}, indent=2))
    elif not found:
        typer.echo("no generation yet: moonlark night")
    else:
        console.print(_table(found, live))
        for generation in found:
            if told := _told(generation):
                typer.echo(f"{generation.generation_id} {told}")


def _told(generation: Generation) -> str:
    """What went wrong; empty where nothing did."""
    left, again = generation.unfinished, "is tried again"
    if left is not None:
        head = again if left.is_tried_again else "is unfinished after its publish"
        return f"{head}: {left.step}: {left.reason}"
    if not generation.failed_reason:
        return ""
    head = "failed" if generation.state in ("failed", "pruned") else again
    return f"{head}: {generation.failed_reason}"


def _day(day: Any) -> str:
    """`0.1383 (frozen 0.1210)`."""
    if not isinstance(day, Mapping):
        return ""
    return f"{day['ndcg@10']:.4f} (frozen {day['frozen_ndcg@10']:.4f})"


def _row(generation: Generation, live: LivePointer | None) -> dict[str, Any]:
    return {
        "generation": generation.generation_id,
        "live": live is not None and live.generation_id == generation.generation_id,
        "state": generation.state,
        "created_at": as_utc(generation.created_at_ms),
        "events": generation.event_count,
        "users": generation.user_count,
        "catalog_seq": generation.catalog_seq,
        "encoder_id": generation.encoder_id,
        "metrics": dict(generation.metrics),
        "failed_reason": generation.failed_reason,
    }


def _table(found: list[Generation], live: LivePointer | None) -> Table:
    table = Table(box=None, pad_edge=False, collapse_padding=True)
    for name in ("", "generation", "state", "created"):
        table.add_column(name, no_wrap=True)
    for name in ("events", "users", "ndcg@10", "day", "parity"):
        table.add_column(name, justify="right", no_wrap=True)
    for generation in found:
        is_live = live is not None and live.generation_id == generation.generation_id
        ndcg = generation.metrics.get("ndcg@10")
        parity = generation.metrics.get("parity_max_abs_diff")
        table.add_row(
            "*" if is_live else "",
            generation.generation_id,
            generation.state,
            as_utc(generation.created_at_ms),
            f"{generation.event_count:,}",
            f"{generation.user_count:,}",
            f"{ndcg:.4f}" if isinstance(ndcg, float) else "",
            _day(generation.metrics.get("day")),
            f"{parity:.0e}" if isinstance(parity, float) else "",
        )
    return table
