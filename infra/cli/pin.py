"""`moonlark pin`: an item at a place of the list."""

from typing import Annotated

import typer

from infra.cli.api import open_api
from infra.cli.policy_options import From, Id, To, Url, tell, times
from sql.policy import MAX_POSITION


def command(
    item: Annotated[str, typer.Argument(metavar="ITEM", help="The item's id.")],
    position: Annotated[int, typer.Option(help="From 1.", min=1, max=MAX_POSITION)] = 1,
    category: Annotated[
        str | None, typer.Option(help="Only in lists that are filtered by it; default in all.")
    ] = None,
    since: From = None,
    until: To = None,
    policy_id: Id = None,
    url: Url = None,
) -> None:
    """Pin an item to a place of every list.

    A user who may not be shown it (seen, hidden, disliked, filtered out) is not shown it. Take it
    back with `moonlark unset`.
    """
    policy_id = policy_id or "pin:" + ":".join([item, *([] if category is None else [category])])
    body = {"kind": "pin", "item_id": item, "position": position, "category": category}
    with open_api(url) as api:
        tell(api.put_policy(policy_id, {**body, **times(since, until)}))
