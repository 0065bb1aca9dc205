"""Texts that were stored while BERT was away are embedded when their user next asks for a list."""

import asyncio
import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ray_jobs.encoders.item_text import clean
from serve.day import Day
from serve.online_encoder import EncoderUnavailable
from sql.events import StoredEvent, write_text_vector

log = logging.getLogger(__name__)

MAX_AT_ONCE = 32


async def embed_late(day: Day, events: Sequence[StoredEvent]) -> bool:
    """Embed and store the newest searches and comments among `events`; False if BERT is away."""
    texts = [(event, clean(event.text)) for event in events if event.text is not None]
    texts = texts[-MAX_AT_ONCE:]
    if not texts:
        return False
    try:
        encoder_id, vectors = await day.encoder.embed([text for _, text in texts])
    except EncoderUnavailable as error:
        log.warning("%d texts are still not embedded: %s", len(texts), error)
        return False
    await asyncio.to_thread(_store, day, encoder_id, [event for event, _ in texts], vectors)
    return True


def _store(
    day: Day, encoder_id: str, events: Sequence[StoredEvent], vectors: NDArray[np.float32]
) -> None:
    for event, vector in zip(events, vectors, strict=True):
        write_text_vector(day.engine, event.user_key, event.user_seq, encoder_id, vector)
