"""`moonlark boost`: the items of a target higher up, or further down."""

from typing import Annotated

import typer

from infra.cli.api import open_api
from infra.cli.policy_options import From, Id, To, Url, tell, times
from serve.schemas.fields import typed_value
from sql.policy import MAX_WEIGHT


def command(
    weight: Annotated[
        float,
        typer.Option(help="Added to the score (a cosine).", min=-MAX_WEIGHT, max=MAX_WEIGHT),
    ],
    item: Annotated[str | None, typer.Option(help="An item's id.")] = None,
    category: Annotated[str | None, typer.Option(help="All items of a category.")] = None,
    attribute: Annotated[
        str | None, typer.Option(help="All items with an attribute: NAME:VALUE.")
    ] = None,
    since: From = None,
    until: To = None,
    policy_id: Id = None,
    url: Url = None,
) -> None:
    """Boost an item, a category or an attribute.

    Boosts of one item add up, to -1 or 1 at most. Take one back with `moonlark unset`.
    """
    targets = {"item": item, "category": category, "attribute": attribute}
    given = [f"{name}:{value}" for name, value in targets.items() if value is not None]
    if len(given) != 1:
        raise ValueError("which items? accepted: one of --item, --category and --attribute")
    body: dict[str, object] = {
        "kind": "boost",
        "weight": weight,
        "item_id": item,
        "category": category,
        **times(since, until),
    }
    if attribute is not None:
        name, colon, value = attribute.partition(":")
        if not colon or not name:
            raise ValueError(f"--attribute {attribute!r}; accepted: NAME:VALUE")
        body["attribute"] = {"name": name, "value": typed_value(value)}
    with open_api(url) as api:
        tell(api.put_policy(policy_id or f"boost:{given[0]}", body))
