"""What trends, for everybody alike."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request

from serve.day import Day
from serve.lists import ListQuery
from serve.request_log import note
from serve.routes.context import day_of, from_ms, parse_attributes, request_id_of, to_ms
from serve.routes.recommendations import Attribute, Category, K
from serve.schemas.fields import Moment
from serve.schemas.policies import TrendingAnswer
from serve.trending import MAX_HOURS

router = APIRouter(prefix="/v1", tags=["recommendations"])


@router.get("/trending")
async def trending(
    request: Request,
    day: Annotated[Day, Depends(day_of)],
    k: K = 20,
    category: Category = None,
    attribute: Attribute = [],  # noqa: B006 - FastAPI copies query defaults
    hours: Annotated[int, Query(ge=1, le=MAX_HOURS, description="how far back it looks")] = 1,
    as_of: Moment | None = None,
) -> TrendingAnswer:
    """Items that are acted on more than is usual for them. An event counts within a second, later
    in an hour of very many items: `activity_age_ms` tells. What nobody acted on is not in it, so
    the list may be short."""
    query = ListQuery(
        k=k,
        category=category,
        attributes=parse_attributes(attribute),
        as_of_ms=None if as_of is None else to_ms(as_of),
    )
    found = await asyncio.to_thread(day.recommender.trending, query, hours)
    day.counts.mark(found.state.degraded)
    answer = TrendingAnswer(
        items=found.items,
        hours=hours,
        as_of=from_ms(found.as_of_ms),
        activity_age_ms=found.activity_age_ms,
        generation=found.state.generation.generation_id,
        catalog_seq=found.state.catalog_seq,
        request_id=request_id_of(request),
        degraded=list(found.state.degraded),
    )
    note(request.scope["state"], vars(answer))
    return answer
