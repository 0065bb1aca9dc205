"""Canary texts: is a text that is embedded again still the vector that was stored?

The night reuses vectors that an earlier night or the day made, maybe in another batch, on another
machine. If BERT gave something else today, a catalog would be half of one space and half of
another; so some are embedded again, each alone as the day does it, before anything is published.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

CANARIES = 20
MIN_COSINE = 0.9999
"""Measured on MiniLM, 1 - cosine between a text alone and in a batch, at worst: fp32 1e-7, OpenVINO
bf16 7e-6, torch bf16 3e-5 (`infra.bench.encoder`). Between precisions torch bf16 comes to 8e-5, so
each is an encoder of its own."""


class TextEncoder(Protocol):
    """What embeds cleaned texts; `item_bert.BertEncoder` is one."""

    @property
    def encoder_id(self) -> str: ...
    @property
    def dim(self) -> int: ...
    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors (N, dim)."""


def choose(total: int, seed: int, count: int = CANARIES) -> NDArray[np.int64]:
    """`count` rows of `total`, or all, ascending: the same for the same seed."""
    if total <= count:
        return np.arange(total, dtype=np.int64)
    return np.sort(np.random.default_rng(seed).choice(total, count, replace=False))


def min_cosine(
    encoder: TextEncoder,
    texts: Mapping[str, str],
    stored: Mapping[str, NDArray[np.float32]],
) -> float | None:
    """The lowest cosine between a text's vector now and its stored one; None without a text.

    Both by the same keys. Each text is embedded by itself: a batch would hide that batches differ.
    """
    cosines = []
    for key, text in texts.items():
        cosines.append(cosine(encoder.encode([text])[0], stored[key]))
    return min(cosines, default=None)


def cosine(one_E: NDArray[np.float32], other_E: NDArray[np.float32]) -> float:
    """0 where one of them is, -1 where one is no number."""
    lengths = float(np.linalg.norm(one_E) * np.linalg.norm(other_E))
    found = float(one_E @ other_E) / lengths if lengths else 0.0
    return found if math.isfinite(found) else -1.0
