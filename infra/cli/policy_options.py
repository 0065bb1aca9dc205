"""What `pin`, `boost`, `seen`, `unset` and `policies` share: options, and how a change is told."""

from typing import Annotated

import typer

from infra.cli.times import moment
from serve.schemas.policies import PolicyChangeAnswer

From = Annotated[
    str | None, typer.Option("--from", help="In force from then on: RFC 3339 with zone.")
]
To = Annotated[str | None, typer.Option("--to", help="In force until before then.")]
Id = Annotated[
    str | None, typer.Option("--id", help="The policy's id; default one made of its target.")
]
Url = Annotated[str | None, typer.Option(help="Where the API answers; default MOONLARK_URL.")]


def times(since: str | None, until: str | None) -> dict[str, object]:
    """`starts_at` and `ends_at` of a body."""
    return {
        "starts_at": None if since is None else moment("--from", since),
        "ends_at": None if until is None else moment("--to", until),
    }


def tell(change: PolicyChangeAnswer) -> None:
    """What became of the policy, and from which number on it is in force."""
    typer.echo(f"{change.policy_id}: {change.outcome} (policy_seq {change.policy_seq})")
