"""The sample of drill `deltas` that goes through the API: a replica's routes, without Ray."""

import asyncio
from pathlib import Path

import numpy as np
from fastapi.testclient import TestClient
from numpy.typing import NDArray

from infra.drills.catalog import ENCODER_ID, TOPICS, embed, made_title
from infra.drills.delta_walk import Walk
from ray_jobs.encoders.item_text import compose
from serve.day import Day
from serve.gateway import build_api
from serve.settings import ServeSettings
from sql import catalog
from sql.engine import read_snapshot
from sql.settings import StoreSettings

K = 20


async def _embed(texts: list[str]) -> tuple[str, NDArray[np.float32]]:
    await asyncio.sleep(0)
    return ENCODER_ID, embed(texts)


def walk_over_http(walk: Walk, database_url: str, ops: int) -> None:
    """Put, delete and ask what is alike; every list must hold live items once, and enough."""
    settings = ServeSettings(http_host="127.0.0.1")  # in this process: no key is needed
    store = StoreSettings(database_url=database_url, artifact_root=Path(walk.root))
    api = build_api(settings, lambda: Day.start(store, settings, _embed))
    with TestClient(api, base_url="http://127.0.0.1") as client:
        for number in range(ops):
            if number % 3 == 0:
                _put(walk, client)
            elif number % 3 == 1:
                _delete(walk, client)
            _similar(walk, client)


def _put(walk: Walk, client: TestClient) -> None:
    """A new item, or one put again after its deletion."""
    item_id = walk.gone.pop() if walk.gone and walk.rng.random() < 0.5 else f"http{walk.named}"
    walk.named += 1
    group = int(walk.rng.integers(len(TOPICS)))
    title = f"{made_title(walk.rng)} {walk.named}"
    body = {"title": title, "category": TOPICS[group]}
    answer = client.put(f"/v1/items/{item_id}", json=body)
    if answer.status_code != 200:
        walk.figures.failed_requests += 1
        walk.figures.tell(answer.text)
        return
    walk.figures.acked += 1
    walk.generation.catch_up(walk.engine, answer.json()["catalog_seq"])
    with read_snapshot(walk.engine) as conn:
        ordinal = catalog.resolve_items(conn, [item_id])[item_id].ordinal
    walk.ids[item_id] = ordinal
    walk.oracle.put([ordinal], embed([compose(title, "", TOPICS[group])]), [group])


def _delete(walk: Walk, client: TestClient) -> None:
    item_id = str(walk.rng.choice(list(walk.ids)))
    answer = client.delete(f"/v1/items/{item_id}")
    if answer.status_code != 200:
        walk.figures.failed_requests += 1
        walk.figures.tell(answer.text)
        return
    walk.figures.acked += 1
    walk.generation.catch_up(walk.engine)
    walk.forget(item_id)


def _similar(walk: Walk, client: TestClient) -> None:
    item_id = str(walk.rng.choice(list(walk.ids)))
    answer = client.get(f"/v1/items/{item_id}/similar", params={"k": K})
    if answer.status_code != 200:
        walk.figures.failed_requests += 1
        walk.figures.tell(answer.text)
        return
    body = answer.json()
    if body["catalog_seq"] < walk.generation.view.catalog_seq:
        walk.figures.stale_reads += 1
    listed = [item["item_id"] for item in body["items"]]
    if len(set(listed)) != len(listed):
        walk.figures.duplicated += 1
    if not set(listed) <= walk.ids.keys() - {item_id}:
        walk.figures.resurrected += 1
        walk.figures.tell(f"like {item_id}: {set(listed) - walk.ids.keys()}")
    if len(listed) != min(K, walk.count - 1):
        walk.figures.tell(f"like {item_id}: {len(listed)} items")
