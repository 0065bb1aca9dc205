"""Texts that were stored while BERT was away are embedded when their user next asks for a list.

The list waits for it a moment and no longer. What takes more time goes on by itself, and the next
list has it: BERT that is slow delays no list, and none of its work is thrown away.
"""

import asyncio
import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from ray_jobs.encoders.item_text import clean
from serve.online_encoder import EncoderUnavailable, OnlineEncoder
from sql.errors import StoreError
from sql.events import StoredEvent, write_text_vector

log = logging.getLogger(__name__)

MAX_AT_ONCE = 32
"""Texts of a user, the newest."""

MAX_USERS = 64
"""Whose texts are being embedded; further lists are made without theirs, marked."""

WAIT_S = 0.25
"""Of a list."""


class LateTexts:
    """Of one replica, on its loop."""

    def __init__(self, engine: Engine, encoder: OnlineEncoder, wait_s: float = WAIT_S) -> None:
        self._engine = engine
        self._encoder = encoder
        self._wait_s = wait_s
        self._running: dict[int, asyncio.Task[bool]] = {}

    async def embed(self, events: Sequence[StoredEvent]) -> bool:
        """Embed and store the newest searches and comments among `events` of one user.

        True where that is done within the wait: a list made again has them.
        """
        with_text = [event for event in events if event.text is not None][-MAX_AT_ONCE:]
        if not with_text:
            return False
        user_key = with_text[0].user_key
        task = self._running.get(user_key)
        if task is None:
            if len(self._running) >= MAX_USERS:
                return False
            task = asyncio.create_task(self._embed(with_text), name="late-texts")
            self._running[user_key] = task
            task.add_done_callback(lambda _: self._running.pop(user_key, None))
        done, _ = await asyncio.wait([task], timeout=self._wait_s)
        return bool(done) and task.result()

    async def stop(self) -> None:
        """End what still goes on; the texts stay, and are embedded another time."""
        for task in (running := list(self._running.values())):
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _embed(self, events: Sequence[StoredEvent]) -> bool:
        texts = [clean(event.text or "") for event in events]
        try:
            encoder_id, vectors = await self._encoder.embed(texts)
            await asyncio.to_thread(self._store, encoder_id, events, vectors)
        except (EncoderUnavailable, SQLAlchemyError, StoreError) as error:
            log.warning("%d texts are still not embedded: %s", len(texts), error)
            return False
        return True

    def _store(
        self, encoder_id: str, events: Sequence[StoredEvent], vectors: NDArray[np.float32]
    ) -> None:
        for event, vector in zip(events, vectors, strict=True):
            write_text_vector(self._engine, event.user_key, event.user_seq, encoder_id, vector)
