"""Items while we serve: a change is in force when it is acknowledged."""

import asyncio
from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from ray_jobs.encoders.item_text import compose, text_digest
from serve.day import Day
from serve.online_encoder import EncoderUnavailable
from serve.path_ids import PathId
from serve.problems import FieldError, ProblemError, another_encoder, not_found, unavailable
from serve.request_log import note
from serve.routes.context import day_of, from_ms, request_id_of, to_ms
from serve.schemas.items import ItemAnswer, ItemBodyIn, ItemChangeAnswer, ItemsAnswer, ItemsBody
from sql import catalog, generations
from sql.engine import read_snapshot

router = APIRouter(prefix="/v1/items", tags=["items"])


@router.get("/{item_id}")
async def get_item(
    request: Request, item_id: PathId, day: Annotated[Day, Depends(day_of)]
) -> ItemAnswer:
    """The item as it is now."""

    def read() -> catalog.Item | None:
        with read_snapshot(day.engine) as conn:
            return catalog.read_item(conn, item_id)

    item = await asyncio.to_thread(read)
    if item is None:
        raise not_found("item", item_id)
    note(request.scope["state"], {"catalog_seq": item.change_seq})
    published = item.body.published_at_ms
    return ItemAnswer(
        item_id=item.item_id,
        title=item.body.title,
        text=item.body.text,
        category=item.body.category,
        attributes=item.body.attributes,
        published_at=None if published is None else from_ms(published),
        available=item.body.available,
        version=item.version,
        catalog_seq=item.change_seq,
    )


@router.put("/{item_id}")
async def put_item(
    request: Request,
    item_id: PathId,
    body: ItemBodyIn,
    day: Annotated[Day, Depends(day_of)],
) -> ItemChangeAnswer:
    """Create, replace or (with `available` false) withdraw an item. With `version`, a late retry
    neither overwrites nor revives."""
    (result,) = await _put(day, [(item_id, body, _stored_body(body))])
    if result.outcome == "stale_version":
        raise _stale("version", body.version, result.version)
    note(request.scope["state"], {"catalog_seq": result.change_seq})
    return _change(result)


@router.put("")
async def put_items(
    request: Request, body: ItemsBody, day: Annotated[Day, Depends(day_of)]
) -> ItemsAnswer:
    """Create or replace up to 500 items. One that is stale refuses none of the others: 409 names
    it, and says that the rest is stored."""
    results = await _put(
        day,
        [
            (item.item_id, item, _stored_body(item, ("items", index)))
            for index, item in enumerate(body.items)
        ],
    )
    note(request.scope["state"], {"catalog_seq": max(each.change_seq for each in results)})
    stale = [
        FieldError(f"items[{index}].version", body.items[index].version, _above(result.version))
        for index, result in enumerate(results)
        if result.outcome == "stale_version"
    ]
    if stale:
        raise ProblemError(
            409,
            "stale version",
            f"{len(stale)} of {len(results)} items were not stored, the others were",
            stale,
            hint="send these again with a version above the stored one, if they are newer",
        )
    return ItemsAnswer(
        items=[_change(result) for result in results], request_id=request_id_of(request)
    )


@router.delete("/{item_id}")
async def delete_item(
    request: Request,
    item_id: PathId,
    day: Annotated[Day, Depends(day_of)],
    version: Annotated[int | None, Query(ge=0)] = None,
) -> ItemChangeAnswer:
    """The item is in no list any more, from now on, in any generation. Twice is harmless."""
    result = await asyncio.to_thread(
        catalog.delete_item, day.engine, item_id, version, at_ms=day.now_ms()
    )
    if result.outcome == "absent":
        raise not_found("item", item_id)
    if result.outcome == "stale_version":
        raise _stale("version", version, result.version)
    note(request.scope["state"], {"catalog_seq": result.change_seq})
    return ItemChangeAnswer(
        item_id=item_id,
        outcome="deleted",
        catalog_seq=result.change_seq,
        version=result.version,
    )


async def _put(
    day: Day, items: Sequence[tuple[str, ItemBodyIn, catalog.ItemBody]]
) -> list[catalog.PutResult]:
    """Text to BERT to the catalog log: the vector is there when the change is acknowledged."""
    texts = [compose(body.title, body.text, body.category) for _, body, _ in items]
    try:
        encoder_id, vectors = await day.encoder.embed(texts)
    except EncoderUnavailable as error:
        raise unavailable(
            "items were not stored",
            f"the text encoder does not answer: {error}",
            "send the same items again: a retry is harmless",
        ) from error
    puts = [
        catalog.ItemPut(
            item_id=item_id,
            body=stored,
            bert_text=text,
            text_digest=text_digest(text),
            version=body.version,
            vectors={encoder_id: vector},
        )
        for (item_id, body, stored), text, vector in zip(items, texts, vectors, strict=True)
    ]
    return await asyncio.to_thread(_store, day, encoder_id, puts)


def _store(day: Day, encoder_id: str, puts: Sequence[catalog.ItemPut]) -> list[catalog.PutResult]:
    """Refused where the live generation could not rank them by their vectors: another encoder."""
    with read_snapshot(day.engine) as conn:
        live = generations.read_live(conn)
    loaded = day.watch.loaded
    held = loaded.get(live.generation_id) if live else None
    readers = list(loaded.values()) if held is None else [held]
    if readers and all(encoder_id != generation.encoder_id for generation in readers):
        raise another_encoder("items were not stored", encoder_id)
    return catalog.put_items(day.engine, puts, at_ms=day.now_ms())


def _stored_body(body: ItemBodyIn, where: tuple[str | int, ...] = ()) -> catalog.ItemBody:
    """The body as the store keeps it, whose bounds are narrower than those of JSON.

    `where` it stands in the request, so that a refusal names `items[3].title`.
    """
    try:
        return catalog.ItemBody(
            title=body.title,
            text=body.text,
            category=body.category,
            attributes=body.attributes,
            published_at_ms=None if body.published_at is None else to_ms(body.published_at),
            available=body.available,
        )
    except ValidationError as error:
        located = [{**found, "loc": (*where, *found["loc"])} for found in error.errors()]
        raise RequestValidationError(located) from error


def _change(result: catalog.PutResult) -> ItemChangeAnswer:
    assert result.outcome != "stale_version", "refused before"
    return ItemChangeAnswer(
        item_id=result.item_id,
        outcome=result.outcome,
        catalog_seq=result.change_seq,
        version=result.version,
    )


def _above(stored: int | None) -> str:
    return f"a version above {stored}"


def _stale(field: str, given: int | None, stored: int | None) -> ProblemError:
    return ProblemError(
        409,
        "stale version",
        "a newer version of the item is stored; nothing was changed",
        [FieldError(field, given, _above(stored))],
    )
