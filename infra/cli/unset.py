"""`moonlark unset`: a pin, a boost or a seen setting is taken back."""

from typing import Annotated

import typer

from infra.cli.api import open_api
from infra.cli.policy_options import Url, tell


def command(
    policy_id: Annotated[
        str, typer.Argument(metavar="POLICY_ID", help="As `moonlark policies` shows it.")
    ],
    url: Url = None,
) -> None:
    """Take back a pin, a boost or a seen setting."""
    with open_api(url) as api:
        tell(api.delete_policy(policy_id))
