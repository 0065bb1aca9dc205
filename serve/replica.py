"""A gateway replica as Ray Serve starts it.

Apart from `serve.app`: a process imports the module of its class, and this one needs neither torch
nor transformers, which the encoder beside it does.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI
from ray.serve.handle import DeploymentHandle

from ray_jobs.shards.distant import Reply, ShardQuery
from serve.clock import wall_clock_ms
from serve.day import Day
from serve.exporter import ray_metrics
from serve.gateway import build_api
from serve.keyring import NoKeys
from serve.online_encoder import Embedded
from serve.settings import ServeSettings
from serve.settled import Settled
from serve.shard_search import AskDeployment
from sql.settings import StoreSettings


class Gateway:
    """A replica: HTTP in, answers out."""

    def __init__(
        self,
        store: StoreSettings,
        settings: ServeSettings,
        encoder: DeploymentHandle[Any],
        *shards: DeploymentHandle[Any],
        now_ms: Callable[[], int] = wall_clock_ms,
    ) -> None:
        logging.getLogger("serve").setLevel(logging.INFO)

        async def embed(texts: list[str]) -> Embedded:
            if len(texts) == 1:
                encoder_id, vector = await encoder.embed.remote(texts[0])
                return encoder_id, vector[None, :]
            embedded: Embedded = await encoder.embed_many.remote(texts)
            return embedded

        async def start() -> Day:
            asked = [_asking(handle) for handle in shards]
            day = await Day.start(store, settings, embed, asked, now_ms=now_ms, tell=ray_metrics())
            try:
                day.keys.check_exposure()
            except NoKeys:
                await day.stop()
                raise
            self._settled = Settled(lambda: day.watch.loaded)
            self._settled.start()
            return day

        self._api = build_api(settings, start)

    def check_health(self) -> None:
        """Serve replaces the replica if this raises three times running."""
        day: Day | None = getattr(self._api.state, "day", None)  # None while it starts
        if day is not None:
            day.watch.check_health()

    def __serve_build_asgi_app__(self) -> FastAPI:
        return self._api


def _asking(handle: DeploymentHandle[Any]) -> AskDeployment:
    """One deployment of shards as the replica asks it."""

    async def ask(generation_id: str, queries: Mapping[int, ShardQuery]) -> Mapping[int, Reply]:
        replies: Mapping[int, Reply] = await handle.answer.remote(generation_id, dict(queries))
        return replies

    return ask
