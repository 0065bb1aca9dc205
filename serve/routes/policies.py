"""Pins, boosts and what counts as seen: in force when they are acknowledged, on every replica."""

import asyncio
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from serve.day import Day
from serve.path_ids import PathId
from serve.problems import ProblemError, not_found
from serve.routes.context import day_of, from_ms, to_ms
from serve.schemas.policies import (
    BoostBody,
    PinBody,
    PoliciesAnswer,
    PolicyAnswer,
    PolicyChangeAnswer,
    PolicyIn,
    SeenBody,
)
from sql import policies as store
from sql.engine import read_snapshot
from sql.errors import TooManyPolicies
from sql.policy import POLICY, BoostPolicy, PinPolicy, Policy, SeenPolicy

router = APIRouter(prefix="/v1/policies", tags=["policies"])


@router.get("")
async def list_policies(day: Annotated[Day, Depends(day_of)]) -> PoliciesAnswer:
    """All of them, also those that are over or not yet in force."""

    def read() -> tuple[list[Policy], int]:
        with read_snapshot(day.engine) as conn:
            return store.read_policies(conn), store.read_policy_seq(conn)

    policies, policy_seq = await asyncio.to_thread(read)
    return PoliciesAnswer(policies=[_answer(policy) for policy in policies], policy_seq=policy_seq)


@router.get("/{policy_id}")
async def get_policy(policy_id: PathId, day: Annotated[Day, Depends(day_of)]) -> PolicyAnswer:
    """One of them."""

    def read() -> Policy | None:
        with read_snapshot(day.engine) as conn:
            return store.read_policy(conn, policy_id)

    policy = await asyncio.to_thread(read)
    if policy is None:
        raise not_found("policy", policy_id, "`moonlark policies` lists them")
    return _answer(policy)


@router.put("/{policy_id}")
async def put_policy(
    policy_id: PathId, body: PolicyIn, day: Annotated[Day, Depends(day_of)]
) -> PolicyChangeAnswer:
    """Create or replace a policy. The same again changes nothing."""
    policy = _stored(body)
    try:
        put = await asyncio.to_thread(
            store.put_policy, day.engine, policy_id, policy, at_ms=day.now_ms()
        )
    except TooManyPolicies as error:
        raise ProblemError(
            409, "too many policies", f"nothing was stored: {error}", hint=error.hint
        ) from error
    return PolicyChangeAnswer(policy_id=policy_id, outcome=put.outcome, policy_seq=put.policy_seq)


@router.delete("/{policy_id}")
async def delete_policy(
    policy_id: PathId, day: Annotated[Day, Depends(day_of)]
) -> PolicyChangeAnswer:
    """The policy is in force for no list any more, from now on."""
    policy_seq = await asyncio.to_thread(store.delete_policy, day.engine, policy_id)
    if policy_seq is None:
        raise not_found("policy", policy_id, "`moonlark policies` lists them")
    return PolicyChangeAnswer(policy_id=policy_id, outcome="deleted", policy_seq=policy_seq)


def _stored(body: PolicyIn) -> PinPolicy | BoostPolicy | SeenPolicy:
    """The body as the store keeps it, which has the bounds."""
    fields = body.model_dump(exclude={"starts_at", "ends_at"})
    if not isinstance(body, SeenBody):
        fields["starts_at_ms"] = _or_none(body.starts_at)
        fields["ends_at_ms"] = _or_none(body.ends_at)
    try:
        return POLICY.validate_python(fields)
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from error


def _or_none(at: datetime | None) -> int | None:
    return None if at is None else to_ms(at)


def _answer(policy: Policy) -> PolicyAnswer:
    return PolicyAnswer(
        policy_id=policy.policy_id,
        policy=_shown(policy.body),
        policy_seq=policy.policy_seq,
        changed_at=from_ms(policy.at_ms),
    )


def _shown(body: PinPolicy | BoostPolicy | SeenPolicy) -> PolicyIn:
    if isinstance(body, SeenPolicy):
        return SeenBody(**body.model_dump())
    fields = body.model_dump(exclude={"starts_at_ms", "ends_at_ms"})
    for name, at_ms in (("starts_at", body.starts_at_ms), ("ends_at", body.ends_at_ms)):
        fields[name] = None if at_ms is None else from_ms(at_ms)
    return PinBody(**fields) if isinstance(body, PinPolicy) else BoostBody(**fields)
