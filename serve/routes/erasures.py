"""Receipts of erasures. They say nothing of who was erased: keep the id that the DELETE gave."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Request

from serve.day import Day
from serve.path_ids import PathId
from serve.problems import not_found
from serve.routes.context import day_of, from_ms, request_id_of
from serve.schemas.users import ErasureAnswer
from sql.engine import read_snapshot
from sql.erasure_receipts import Receipt, read_receipt

router = APIRouter(prefix="/v1/erasures", tags=["users"])


@router.get("/{erasure_id}")
async def get_erasure(
    request: Request,
    erasure_id: PathId,
    day: Annotated[Day, Depends(day_of)],
) -> ErasureAnswer:
    """How far an erasure is: `completed_at` is set when every stored copy was rewritten."""
    receipt = await asyncio.to_thread(_read, day, erasure_id)
    if receipt is None:
        raise not_found("erasure", erasure_id)
    return to_answer(receipt, request)


def to_answer(receipt: Receipt, request: Request) -> ErasureAnswer:
    """A receipt as the API shows it."""
    return ErasureAnswer(
        erasure_id=receipt.erasure_id,
        erased_at=from_ms(receipt.erased_at_ms),
        completed_at=None if receipt.completed_at_ms is None else from_ms(receipt.completed_at_ms),
        erased=dict(receipt.removed),
        to_rewrite=list(receipt.to_rewrite),
        cannot_rewrite=list(receipt.cannot_rewrite),
        generations=list(receipt.weights),
        request_id=request_id_of(request),
    )


def _read(day: Day, erasure_id: str) -> Receipt | None:
    with read_snapshot(day.engine) as conn:
        return read_receipt(conn, erasure_id)
