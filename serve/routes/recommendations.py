"""Lists: for a user, for many users, like an item, for a text."""

import asyncio
import uuid
from collections.abc import Callable
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Depends, Query, Request, Response

from ray_jobs.encoders.item_text import clean
from serve.anonymous import NOBODY, inline_log
from serve.day import Day
from serve.lists import ItemList, ListQuery
from serve.online_encoder import EncoderUnavailable
from serve.path_ids import PathId
from serve.problems import another_encoder, unavailable
from serve.recommend import AT_ONCE_K
from serve.request_log import note
from serve.routes.context import (
    day_of,
    from_ms,
    key_of,
    may_read_texts,
    parse_attributes,
    request_id_of,
    to_ms,
)
from serve.routes.new_events import new_events, refusal
from serve.schemas.fields import MAX_EXCLUDE, MAX_K, MAX_OFFSET, Identifier, Moment
from serve.schemas.lists import (
    DIVERSITY,
    RecommendationAnswer,
    RecommendBody,
    RecommendEventsBody,
    RecommendManyAnswer,
    SearchAnswer,
    SearchBody,
    SimilarAnswer,
)
from sql.events import Rejected
from sql.keys import ApiKey

router = APIRouter(prefix="/v1", tags=["recommendations"])

DEFAULT_K = 20
K = Annotated[int, Query(ge=1, le=MAX_K, description="length of the list")]
Category = Annotated[str | None, Query(max_length=200)]
Attribute = Annotated[list[str], Query(description="name:value, repeated", max_length=10)]
Exclude = Annotated[list[Identifier], Query(description="item ids", max_length=MAX_EXCLUDE)]
Diversity = Annotated[float, Query(ge=0, le=1, description=DIVERSITY)]
Explain = Annotated[bool, Query(description="say of each item why it is there")]


@router.get("/users/{user_id}/recommendations", response_model=RecommendationAnswer)
async def recommend(
    request: Request,
    day: Annotated[Day, Depends(day_of)],
    user_id: PathId,
    k: K = DEFAULT_K,
    offset: Annotated[int, Query(ge=0, le=MAX_OFFSET)] = 0,
    category: Category = None,
    attribute: Attribute = [],  # noqa: B006 - FastAPI copies query defaults
    exclude: Exclude = [],  # noqa: B006
    exclude_seen: bool = True,
    as_of: Moment | None = None,
    explain: Explain = False,
    diversity: Diversity = 0.0,
) -> Response:
    """The user's list. Reflects every event and item change that was acknowledged before."""
    query = ListQuery(
        k=k,
        offset=offset,
        category=category,
        attributes=parse_attributes(attribute),
        exclude=tuple(exclude),
        exclude_seen=exclude_seen,
        as_of_ms=None if as_of is None else to_ms(as_of),
        explain=explain,
        diversity=diversity,
    )
    answer = await list_of(day, key_of(request), user_id, query, request_id_of(request))
    note(request.scope["state"], answer)
    return _json(answer)


async def list_of(
    day: Day,
    key: ApiKey | None,
    user_id: str,
    query: ListQuery,
    request_id: str,
    *,
    is_usual: bool = False,
) -> dict[str, Any]:
    """The body of a user's list, which is recorded as shown. `key`: who asks. `is_usual`: the query
    says a length and nothing else.

    Raises:
        ProblemError: 429 for a user who asks too much, 503 where nothing can be answered.
    """
    day.allowances.take_lists(key, [user_id])
    answer: ItemList | None = None
    if is_usual and day.lists_at_once and query.k <= AT_ONCE_K:
        answer = day.recommender.recommend_at_once(user_id, query)
    if answer is None:
        answer = await _made(day, lambda: day.recommender.recommend(user_id, query))
    else:
        day.counts.mark(answer.state.degraded)
    day.recommender.expose(answer, query, request_id)
    if query.explain and not may_read_texts(key):
        _hide_texts(answer)
    return _recommendation(user_id, answer, request_id)


@router.post("/recommendations", response_model=RecommendManyAnswer)
async def recommend_many(
    request: Request,
    body: RecommendBody,
    day: Annotated[Day, Depends(day_of)],
    on_unknown_item: Annotated[Literal["refuse", "keep"], Query()] = "refuse",
) -> Response:
    """Lists for up to 100 users at once, one answer a user, in the order asked.

    With `events` instead of `users`: the list that a user with just these events would get, of
    which nothing is stored. `on_unknown_item` is about these events, as in POST /v1/events.
    """
    query = ListQuery(
        k=body.k,
        offset=body.offset,
        category=body.category,
        attributes=body.attributes,
        exclude=tuple(body.exclude),
        exclude_seen=body.exclude_seen,
        as_of_ms=None if body.as_of is None else to_ms(body.as_of),
        explain=body.explain,
        diversity=body.diversity,
    )
    if isinstance(body, RecommendEventsBody):
        answer = await _for_events(day, body, query, keep=on_unknown_item == "keep")
        request_id = request_id_of(request)
        result = _recommendation(None, answer, request_id)
        note(request.scope["state"], result)
        return _json({"results": [result], "request_id": request_id})
    day.allowances.take_lists(key_of(request), body.users)
    results = []
    for user_id in body.users:
        request_id = uuid.uuid4().hex  # a list has an id of its own: it is what was shown

        def make(user_id: str = user_id) -> ItemList:
            return day.recommender.recommend(user_id, query)

        answer = await _made(day, make)
        day.recommender.expose(answer, query, request_id)
        if query.explain and not may_read_texts(key_of(request)):
            _hide_texts(answer)
        results.append(_recommendation(user_id, answer, request_id))
    note(request.scope["state"], _alike(results))
    return _json({"results": results, "request_id": request_id_of(request)})


@router.get("/items/{item_id}/similar", response_model=SimilarAnswer)
async def similar(
    request: Request,
    day: Annotated[Day, Depends(day_of)],
    item_id: PathId,
    k: K = 20,
    category: Category = None,
    attribute: Attribute = [],  # noqa: B006
    exclude: Exclude = [],  # noqa: B006
) -> Response:
    """Items nearest to this one."""
    query = ListQuery(
        k=k, category=category, attributes=parse_attributes(attribute), exclude=tuple(exclude)
    )
    answer = await asyncio.to_thread(day.recommender.similar, item_id, query)
    day.counts.mark(answer.state.degraded)
    told = {
        "item_id": item_id,
        "items": answer.items,
        "generation": answer.state.generation.generation_id,
        "catalog_seq": answer.state.catalog_seq,
        "request_id": request_id_of(request),
        "degraded": list(answer.state.degraded),
        "shards": answer.state.shards_answered,
    }
    note(request.scope["state"], told)
    return _json(told)


@router.post("/search", response_model=SearchAnswer)
async def search(
    request: Request, body: SearchBody, day: Annotated[Day, Depends(day_of)]
) -> Response:
    """Items for a text. With a user, their taste has a say. Nothing is stored: post a `search`
    event for that."""
    query = ListQuery(
        k=body.k,
        category=body.category,
        attributes=body.attributes,
        exclude=tuple(body.exclude),
        exclude_seen=body.exclude_seen,
    )
    if body.user_id is not None:
        day.allowances.take_lists(key_of(request), [body.user_id])
    try:
        encoder_id, vectors = await day.encoder.embed([clean(body.text)])
    except EncoderUnavailable as error:
        raise unavailable(
            "the text encoder does not answer", str(error), "look at `moonlark status`"
        ) from error
    answer = await _made(day, lambda: day.recommender.search_text(vectors[0], body.user_id, query))
    if encoder_id != answer.state.generation.encoder_id:
        raise another_encoder("the text cannot be compared with the items", encoder_id)
    told = {
        "items": answer.items,
        "personalised": answer.state.session is not None,
        "generation": answer.state.generation.generation_id,
        "user_seq": answer.state.user_seq,
        "catalog_seq": answer.state.catalog_seq,
        "request_id": request_id_of(request),
        "degraded": list(answer.state.degraded),
        "shards": answer.state.shards_answered,
    }
    note(request.scope["state"], told)
    return _json(told)


async def _for_events(
    day: Day, body: RecommendEventsBody, query: ListQuery, *, keep: bool
) -> ItemList:
    new, received_ms = await new_events(day, [(NOBODY, event) for event in body.events])

    def make() -> ItemList | Rejected:
        log = inline_log(day.engine, new, received_at_ms=received_ms, keep_unknown_items=keep)
        if isinstance(log, Rejected):
            return log
        return day.recommender.recommend_for_events(log, query)

    made = await asyncio.to_thread(make)
    if isinstance(made, Rejected):
        raise refusal(made, received_ms, single=False)
    day.counts.mark(made.state.degraded)
    return made


async def _made(day: Day, make: Callable[[], ItemList]) -> ItemList:
    """The list; made again if it had to wait for texts that can be embedded now."""
    loop = asyncio.get_running_loop()
    answer = await loop.run_in_executor(day.list_pool, make)
    if answer.state.unembedded and await day.late_texts.embed(answer.state.unembedded):
        answer = await loop.run_in_executor(day.list_pool, make)
    day.counts.mark(answer.state.degraded)
    return answer


def _hide_texts(answer: ItemList) -> None:
    for item in answer.items:
        for event in item["explanation"]["nearest_events"]:
            event.pop("text", None)


def _recommendation(user_id: str | None, answer: ItemList, request_id: str) -> dict[str, Any]:
    return {
        "user_id": user_id,
        "items": answer.items,
        "basis": answer.basis,
        "generation": answer.state.generation.generation_id,
        "user_seq": answer.state.user_seq,
        "catalog_seq": answer.state.catalog_seq,
        "policy_seq": answer.policy_seq,
        "as_of": from_ms(answer.as_of_ms).isoformat(),
        "request_id": request_id,
        "degraded": list(answer.state.degraded),
        "shards": answer.state.shards_answered,
    }


def _alike(results: list[dict[str, Any]]) -> dict[str, Any]:
    """What the lists of several users have in common: a switch may fall between two of them."""
    first, *others = results
    shared = ("generation", "catalog_seq", "degraded")
    return {
        name: first[name] for name in shared if all(other[name] == first[name] for other in others)
    }


def _json(body: dict[str, Any]) -> Response:
    # Straight to bytes: validating our own answer again would cost more than the fold.
    return Response(orjson.dumps(body), media_type="application/json")
