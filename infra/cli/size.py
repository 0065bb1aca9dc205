"""`moonlark size`: memory and CPU for a catalog, its users and a rate of lists, by the formula of
`infra.bench.sizing`."""

from typing import Annotated

import typer
from rich.table import Table

from infra.bench import sizing
from infra.cli.console import console

GB, MB = 1e9, 1e6


def command(
    items: Annotated[int, typer.Option(help="Items of the catalog.", min=1)],
    users: Annotated[int, typer.Option(help="Users.", min=0)] = 0,
    dimensions: Annotated[int, typer.Option(help="Width of item and user vectors.", min=1)] = 128,
    rate: Annotated[float, typer.Option(help="Lists a second.", min=0)] = 0.0,
    text_dimensions: Annotated[
        int, typer.Option(help="Width of BERT's vectors (MiniLM: 384).", min=1)
    ] = 384,
    item_bytes: Annotated[
        float, typer.Option(help="Of id, title, category and attributes, of an item.", min=0)
    ] = 100.0,
    shard_deployments: Annotated[
        int, typer.Option(help="Deployments of shards apart; 0: none.", min=0)
    ] = 0,
) -> None:
    """Memory and CPU for a catalog, its users and a rate.

    By the bytes of the formats and floors that were measured on one machine: `python -m
    infra.bench.growth` measures them here.
    """
    ask = sizing.Ask(
        items=items,
        users=users,
        dim=dimensions,
        rate=rate,
        text_dim=text_dimensions,
        item_bytes=item_bytes,
        shard_deployments=shard_deployments,
    )
    found = sizing.size(ask)
    parts = Table("one generation", "own to a replica, MB", "mapped, MB")
    for name, part in sizing.generation_parts(ask).items():
        parts.add_row(name, _mb(part.private), _mb(part.mapped))
    parts.add_row("together", _mb(found.generation.private), _mb(found.generation.mapped))
    console.print(parts)
    without_calls = ", without its calls of shards" if shard_deployments else ""
    node = "one node with all of it" + (" but the shards" if shard_deployments else "")
    whole = Table("", "")
    for name, value in (
        ("a replica, own (two generations, sessions)", f"{_mb(found.replica.private)} MB"),
        ("mapped, shared by a node's replicas", f"{_mb(found.replica.mapped)} MB"),
        (f"CPU of a list{without_calls}", f"{found.list_cpu_s * 1e3:.2f} ms"),
        (f"cores for {rate:g} lists/s, used to {sizing.USED:.0%}", f"{found.cores:.1f}"),
        ("gateway replicas", str(found.replicas)),
        (f"{node}, while it switches", f"{found.node / GB:.1f} GB"),
        ("database", f"{found.database / GB:.2f} GB"),
    ):
        whole.add_row(name, value)
    if shard_deployments:
        each = sizing.shard_server_bytes(ask)
        whole.add_row("MOONLARK_SHARD_MEMORY_BYTES (a replica of shards)", f"{each.all:.0f}")
    console.print(whole)


def _mb(count: float) -> str:
    return f"{count / MB:,.0f}"
