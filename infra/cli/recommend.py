"""`moonlark recommend`: a list, asked of the API as any client would."""

from typing import Annotated

import typer
from rich.table import Table

from infra.cli.console import console
from infra.cli.settings import CliSettings
from infra.client import Moonlark
from serve.schemas.fields import MAX_K, MAX_OFFSET
from serve.schemas.lists import RecommendationAnswer


def command(
    user: Annotated[
        str, typer.Argument(metavar="USER", help="The user's id; a new one gets what is popular.")
    ],
    k: Annotated[int, typer.Option("-k", "--k", help="Length of the list.", min=1, max=MAX_K)] = 10,
    category: Annotated[str | None, typer.Option(help="Only items of this category.")] = None,
    attribute: Annotated[
        list[str] | None, typer.Option(help="Only items with it: NAME:VALUE. May be repeated.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="An item id to leave out. May be repeated.")
    ] = None,
    exclude_seen: Annotated[
        bool, typer.Option("--exclude-seen/--include-seen", help="Leave out what the user saw.")
    ] = True,
    offset: Annotated[
        int, typer.Option(help="Skip so many of the best.", min=0, max=MAX_OFFSET)
    ] = 0,
    diversity: Annotated[
        float, typer.Option(help="Towards 1, like items come later.", min=0.0, max=1.0)
    ] = 0.0,
    url: Annotated[
        str | None, typer.Option(help="Where the API answers; default MOONLARK_URL.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The API's answer as it is.")] = False,
) -> None:
    """Show a user's list.

    The list reflects every event and item change that was acknowledged before.
    """
    settings = CliSettings()
    key = settings.api_key.get_secret_value() if settings.api_key else None
    with Moonlark(url or settings.url, timeout_s=settings.timeout_s, api_key=key) as client:
        answer = client.recommend(
            user,
            k=k,
            category=category,
            attributes=dict(_pair(pair) for pair in attribute or []),
            exclude=exclude or [],
            exclude_seen=exclude_seen,
            offset=offset,
            diversity=diversity,
        )
    if as_json:
        typer.echo(answer.model_dump_json(indent=2))
        return
    console.print(_table(answer, offset))
    typer.echo(
        f"by {answer.basis}; generation {answer.generation}, user_seq {answer.user_seq},"
        f" catalog_seq {answer.catalog_seq}"
    )
    if answer.degraded:
        typer.secho(f"degraded: {', '.join(answer.degraded)}", fg="yellow", err=True)


def _pair(pair: str) -> tuple[str, str]:
    name, colon, value = pair.partition(":")
    if not colon or not name:
        raise ValueError(f"--attribute {pair!r}; accepted: NAME:VALUE")
    return name, value


def _table(answer: RecommendationAnswer, offset: int) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("", justify="right")
    table.add_column("item")
    table.add_column("score", justify="right")
    table.add_column("title")
    table.add_column("category")
    for rank, item in enumerate(answer.items, start=offset + 1):
        score = f"{item.score:.4f}"
        table.add_row(str(rank), item.item_id, score, item.title, item.category or "")
    return table
