"""The deployments beside the gateway, behind a switch (`sickness`). Apart from `sick_app`: their
processes import no more than this."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from infra.drills.sickness import Sickness
from infra.drills.words_encoder import WordsEncoder
from ray_jobs.shards.distant import Reply, ShardQuery
from serve.settings import ServeSettings
from serve.shard_server import ShardServer
from sql.settings import StoreSettings


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
