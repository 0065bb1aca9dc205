"""The shipped gateway; the deployments beside it are the shipped ones behind a switch (`sickness`).

Deployed by `infra.drills.stack` for the drills that break one of them.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ray import serve as ray_serve

from infra.drills.app import WordsEncoder
from infra.drills.sickness import Sickness
from ray_jobs.shards.distant import Reply, ShardQuery
from serve.app import SHARD_SERVER, assembled
from serve.settings import ServeSettings
from serve.shard_server import ShardServer
from sql.settings import StoreSettings

APP = "infra.drills.sick_app:build"


class SickShardServer(ShardServer):
    """The shipped one, behind the switch."""

    def __init__(self, store: StoreSettings, settings: ServeSettings, index: int) -> None:
        self._sickness = Sickness.here(f"shards{index}")
        self._sickness.started()
        super().__init__(store, settings, index)

    async def answer(
        self, generation_id: str, queries: Mapping[int, ShardQuery]
    ) -> dict[int, Reply]:
        """See `ShardServer.answer`."""
        await self._sickness.slows()
        return await super().answer(generation_id, queries)


class SickWordsEncoder:
    """The two methods of `serve.text_encoder.TextEncoder`, behind the switch."""

    def __init__(self) -> None:
        self._sickness = Sickness.here("encoder")
        self._sickness.started()
        self._words = WordsEncoder()

    async def embed(self, text: str) -> tuple[str, NDArray[np.float32]]:
        """(encoder id, unit vector (E,))."""
        await self._sickness.slows()
        return self._words.embed(text)

    async def embed_many(self, texts: list[str]) -> tuple[str, NDArray[np.float32]]:
        """(encoder id, unit vectors (N, E))."""
        await self._sickness.slows()
        return self._words.embed_many(texts)


SICK_SHARD_SERVER = SHARD_SERVER.options(func_or_class=SickShardServer)
SICK_WORDS_ENCODER = ray_serve.deployment(
    max_ongoing_requests=256, ray_actor_options={"num_cpus": 0.1}
)(SickWordsEncoder)


def build(_: Mapping[str, Any] | None = None) -> ray_serve.Application:
    """The application as the environment says (`MOONLARK_...`)."""
    return assembled(ServeSettings(), SICK_WORDS_ENCODER.bind(), SICK_SHARD_SERVER)
