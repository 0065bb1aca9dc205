"""`moonlark policies`: the pins, boosts and seen settings there are."""

from datetime import datetime
from typing import Annotated

import typer

from infra.cli.api import open_api
from infra.cli.policy_options import Url
from infra.cli.times import as_utc
from serve.schemas.policies import BoostBody, PinBody, PolicyAnswer, SeenBody


def command(
    url: Url = None,
    as_json: Annotated[bool, typer.Option("--json", help="The API's answer as it is.")] = False,
) -> None:
    """List the pins, boosts and seen settings.

    Also those that are over or not yet in force.
    """
    with open_api(url) as api:
        answer = api.policies()
    if as_json:
        typer.echo(answer.model_dump_json(indent=2))
        return
    for policy in answer.policies:
        typer.echo(f"{policy.policy_id}  {_what(policy)}")
    typer.echo(f"{len(answer.policies)} policies (policy_seq {answer.policy_seq})")


def _what(answer: PolicyAnswer) -> str:
    policy = answer.policy
    if isinstance(policy, SeenBody):
        again = policy.buy_again_after_days
        kinds = ", ".join(policy.kinds) or "nothing"
        what = f"seen in {policy.category or 'every other category'}: {kinds}"
        return what if again is None else f"{what}; bought again after {again} days"
    what = _pin(policy) if isinstance(policy, PinBody) else _boost(policy)
    return what + _time(", from", policy.starts_at) + _time(", to", policy.ends_at)


def _pin(pin: PinBody) -> str:
    where = "" if pin.category is None else f" of lists of {pin.category}"
    return f"pin {pin.item_id} to place {pin.position}{where}"


def _boost(boost: BoostBody) -> str:
    if boost.attribute is not None:
        target = f"{boost.attribute.name} = {boost.attribute.value}"
    else:
        target = f"item {boost.item_id}" if boost.item_id else f"category {boost.category}"
    return f"boost {target} by {boost.weight:+g}"


def _time(word: str, at: datetime | None) -> str:
    return "" if at is None else f"{word} {as_utc(round(at.timestamp() * 1000))}"
