"""Vectors as bytes: little-endian float32 and nothing else; the length says the dimension."""

import numpy as np
from numpy.typing import NDArray

from sql.ids import BadInput

MAX_DIM = 8_192
_LITTLE_ENDIAN = np.dtype("<f4")


def is_vector(vector: NDArray[np.float32]) -> bool:
    """Whether `vector` is one row of 1 to `MAX_DIM` finite numbers."""
    return vector.ndim == 1 and 0 < vector.shape[0] <= MAX_DIM and bool(np.isfinite(vector).all())


def to_bytes(field: str, vector: NDArray[np.float32]) -> bytes:
    """The bytes of a (dim,) vector; raises `BadInput` that names `field`."""
    if not is_vector(vector):
        raise BadInput(field, vector.shape, f"one row of 1 to {MAX_DIM} finite numbers")
    return np.ascontiguousarray(vector, dtype=_LITTLE_ENDIAN).tobytes()


def from_bytes(stored: bytes) -> NDArray[np.float32]:
    """The (dim,) vector of its bytes: a read-only view, no copy."""
    return np.frombuffer(stored, dtype=_LITTLE_ENDIAN)
