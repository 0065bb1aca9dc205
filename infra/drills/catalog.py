"""A made-up catalog. A text's vector is the sum of vectors of its words: close if they share words.

No model is needed, the vector of any text can be told anywhere, and the drill's own machine time
goes to what is drilled. E = TEXT_DIM.
"""

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine

from ray_jobs.encoders.item_text import compose, text_digest
from sql import catalog

ENCODER_ID = "drill-words-1"
TEXT_DIM = 32
TOPICS = ("space", "pasta", "garden", "chess", "harbour", "violin", "desert", "winter")
WORDS_A_TOPIC = 40
PUT_AT_ONCE = 500


def made_title(rng: np.random.Generator) -> str:
    """Four words of one topic, so that the items of a topic are neighbours."""
    topic = TOPICS[rng.integers(len(TOPICS))]
    return " ".join([topic, *(f"{topic}{rng.integers(WORDS_A_TOPIC)}" for _ in range(3))])


def embed(texts: Sequence[str]) -> NDArray[np.float32]:
    """Unit vectors (N, E) of texts."""
    rows = [_text_vector(text) for text in texts]
    return np.stack(rows) if rows else np.zeros((0, TEXT_DIM), np.float32)


@lru_cache(maxsize=100_000)
def _text_vector(text: str) -> NDArray[np.float32]:
    words = text.lower().split()
    vector = sum((_word_vector(word) for word in words), np.zeros(TEXT_DIM, np.float32))
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-9), np.float32)


@lru_cache(maxsize=10_000)
def _word_vector(word: str) -> NDArray[np.float32]:
    seed = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
    return np.random.default_rng(seed).normal(size=TEXT_DIM).astype(np.float32)


def item_put(
    item_id: str,
    title: str,
    vector_E: NDArray[np.float32] | None = None,
    category: str | None = None,
) -> catalog.ItemPut:
    """A put as the gateway makes it; `vector_E` in place of the words' own."""
    text = compose(title, "", category)
    vector_E = embed([text])[0] if vector_E is None else vector_E
    body = catalog.ItemBody(title=title, category=category)
    return catalog.ItemPut(item_id, body, text, text_digest(text), None, {ENCODER_ID: vector_E})


def fill_catalog(engine: Engine, items: int, rng: np.random.Generator, at_ms: int) -> None:
    """Items i0 .. i<items - 1>."""
    puts = [item_put(f"i{number}", made_title(rng)) for number in range(items)]
    for first in range(0, items, PUT_AT_ONCE):
        catalog.put_items(engine, puts[first : first + PUT_AT_ONCE], at_ms)
