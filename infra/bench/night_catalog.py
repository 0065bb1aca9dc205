"""Catalogs and logs for the nights of `infra.bench.night`: the films and ratings of MovieLens 100K,
repeated with changes until there are enough, each text distinct."""

from collections.abc import Iterator
from itertools import islice

import numpy as np
from sqlalchemy import Engine
from tqdm import tqdm

from infra.datasets.movielens import Event, MovieLens
from infra.ingest.rows import make_put
from sql.catalog import ItemBody, ItemPut, put_items
from sql.events import EventKind, NewEvent, append

PUT_AT_ONCE = 5_000
EVENTS_AT_ONCE = 500
AT_MS = 1_000_000_000_000
"""After the last rating: history, as it is ingested."""
CHANGED = "restored"


def fill_catalog(engine: Engine, data: MovieLens, count: int) -> None:
    """Items 0 .. count - 1, each with a text of its own."""
    _put(engine, (_put_of(data, number) for number in range(count)), count)


def change_texts(engine: Engine, data: MovieLens, count: int, share: float) -> int:
    """Of a catalog of `count`, edit this share of the texts, evenly taken; returns how many."""
    numbers = range(0, count, round(1 / share))
    _put(engine, (_put_of(data, number, CHANGED) for number in numbers), len(numbers))
    return len(numbers)


def fill_log(engine: Engine, data: MovieLens, items: int, events: int, seed: int) -> int:
    """The ratings of so many of the users that they are at least `events`, each of a film's rating
    at one of its items; returns how many were stored."""
    rng = np.random.default_rng(seed)
    films = {item.item_id: number for number, item in enumerate(data.items)}
    by_user: dict[str, list[Event]] = {}
    for event in data.events:
        by_user.setdefault(event.user_id, []).append(event)
    stored = 0
    for user_id, ratings in tqdm(by_user.items(), desc="log", leave=False):
        if stored >= events:
            break
        repeats = (items - 1 - np.array([films[event.item_id] for event in ratings])) // len(films)
        known = [number for number, most in enumerate(repeats) if most >= 0]
        copies = rng.integers(repeats[known] + 1)
        requests = [
            NewEvent(
                user_id,
                f"r{number}",
                EventKind.RATING,
                str(films[ratings[number].item_id] + int(copy) * len(films)),
                value=ratings[number].value,
                occurred_at_ms=ratings[number].occurred_at_ms,
            )
            for number, copy in zip(known, copies, strict=True)
        ]
        for first in range(0, len(requests), EVENTS_AT_ONCE):
            part = requests[first : first + EVENTS_AT_ONCE]
            append(engine, [part], received_at_ms=AT_MS, history=True)
        stored += len(requests)
    return stored


def _put(engine: Engine, puts: Iterator[ItemPut], count: int) -> None:
    with tqdm(total=count, desc="catalog", leave=False) as bar:
        while part := list(islice(puts, PUT_AT_ONCE)):
            put_items(engine, part, AT_MS)
            bar.update(len(part))


def _put_of(data: MovieLens, number: int, *more: str) -> ItemPut:
    """Item `number`: a film, and from its first repetition on which one it is."""
    repetition, film = divmod(number, len(data.items))
    item = data.items[film]
    title = " ".join([item.title, *([str(repetition)] if repetition else []), *more])
    body = ItemBody(title=title, category=item.category, attributes=dict(item.attributes))
    return make_put(str(number), body, None)
