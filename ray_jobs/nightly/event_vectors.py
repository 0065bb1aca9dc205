"""Vectors of searches and comments, as work files beside the exported log.

    event_vectors.keys.npy     int64 [S, 2]: user_key, user_seq, ascending
    event_vectors.vectors.npy  float32 [S, text_dim]

They belong to users, so they are never published. S = searches and comments.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_KEYS = "event_vectors.keys.npy"
_VECTORS = "event_vectors.vectors.npy"


@dataclass(frozen=True, slots=True, eq=False)
class EventVectors:
    """Rows sorted by (user_key, user_seq)."""

    keys_S2: NDArray[np.int64]
    vectors_SD: NDArray[np.float32]

    @classmethod
    def open(cls, work: Path) -> "EventVectors":
        """Map the two files of a night's work folder."""
        return cls(
            np.load(work / _KEYS, allow_pickle=False),
            np.load(work / _VECTORS, mmap_mode="r", allow_pickle=False).view(np.ndarray),
        )

    def rows_of(self, user_keys: NDArray[np.int64], seqs: NDArray[np.int64]) -> NDArray[np.int64]:
        """Row of each (user_key, user_seq), -1 where the event has no vector of its own."""
        row_of = {(key, seq): row for row, (key, seq) in enumerate(self.keys_S2.tolist())}
        if not row_of:
            return np.full(len(user_keys), -1, np.int64)
        pairs = zip(user_keys.tolist(), seqs.tolist(), strict=True)
        return np.array([row_of.get(pair, -1) for pair in pairs], np.int64)


def write_event_vectors(
    work: Path, vectors: Mapping[tuple[int, int], NDArray[np.float32]], text_dim: int
) -> None:
    """Write both files from vectors by (user_key, user_seq)."""
    keys = sorted(vectors)
    keys_S2 = np.array(keys, np.int64).reshape(-1, 2)
    vectors_SD = np.zeros((len(keys), text_dim), np.float32)
    for row, key in enumerate(keys):
        vectors_SD[row] = vectors[key]
    np.save(work / _KEYS, keys_S2, allow_pickle=False)
    np.save(work / _VECTORS, vectors_SD, allow_pickle=False)
