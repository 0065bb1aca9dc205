"""BERT by day: a deployment of its own, so that 15 ms of matrix products never hold up a list."""

import asyncio
import gc

import numpy as np
import torch
from numpy.typing import NDArray
from ray import serve as ray_serve

from ray_jobs.encoders.bert_settings import BertSettings
from ray_jobs.encoders.item_bert import open_bert

MAX_BATCH = 32

SLICE = 8
"""Texts of a long list that are embedded before others get their turn (0.3 s at 256 tokens each):
500 items in one PUT must not hold up a search."""


class TextEncoder:
    """Embeds cleaned texts with the same weights, precision and pooling as the night does."""

    def __init__(self, settings: BertSettings) -> None:
        torch.set_num_threads(1)  # a replica is one of many on its machine
        self._encoder = open_bert(settings)
        gc.collect()
        gc.freeze()  # as `serve.settled` does
        self._one_at_a_time = asyncio.Lock()  # the encoder is not safe for two threads

    async def embed(self, text: str) -> tuple[str, NDArray[np.float32]]:
        """(encoder id, unit vector (text_dim,)) of one cleaned text."""
        vector: NDArray[np.float32] = await self._embed_batched(text)
        return self._encoder.encoder_id, vector

    async def embed_many(self, texts: list[str]) -> tuple[str, NDArray[np.float32]]:
        """(encoder id, unit vectors (N, text_dim)) of cleaned texts, in slices of like length."""
        by_length = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        vectors: dict[int, NDArray[np.float32]] = {}
        for start in range(0, len(texts), SLICE):
            rows = by_length[start : start + SLICE]
            encoded = await self._encode([texts[row] for row in rows])
            vectors.update(zip(rows, encoded, strict=True))
        return self._encoder.encoder_id, np.stack([vectors[row] for row in range(len(texts))])

    @ray_serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=0.002)
    async def _embed_batched(self, texts: list[str]) -> list[NDArray[np.float32]]:
        return list(await self._encode(texts))

    async def _encode(self, texts: list[str]) -> NDArray[np.float32]:
        async with self._one_at_a_time:  # first come, first served: single texts get in between
            return await asyncio.to_thread(self._encoder.encode, texts)
