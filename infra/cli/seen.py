"""`moonlark seen`: what counts as seen, and when what was bought is shown again."""

from typing import Annotated

import typer

from infra.cli.api import open_api
from infra.cli.policy_options import Id, Url, tell
from sql.policy import MAX_BUY_AGAIN_DAYS, SeenPolicy

ALL = ",".join(SeenPolicy().kinds)


def command(
    category: Annotated[
        str,
        typer.Argument(
            metavar="[CATEGORY]", help="Default: every category without a setting of its own."
        ),
    ] = "",
    kinds: Annotated[
        str, typer.Option(help="Kinds of events that make an item seen, with commas; or none.")
    ] = ALL,
    buy_again_after: Annotated[
        int | None,
        typer.Option(
            help="Show a bought item again after so many days; default never.",
            min=0,
            max=MAX_BUY_AGAIN_DAYS,
        ),
    ] = None,
    policy_id: Id = None,
    url: Url = None,
) -> None:
    """Set what counts as seen in a category.

    Seen items are not recommended again. Take the setting back with `moonlark unset`.
    """
    body = {
        "kind": "seen",
        "category": category,
        "kinds": [] if kinds == "none" else kinds.split(","),
        "buy_again_after_days": buy_again_after,
    }
    with open_api(url) as api:
        tell(api.put_policy(policy_id or f"seen:{category}", body))
