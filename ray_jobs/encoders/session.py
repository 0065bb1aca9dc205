"""A session: a user's state at `user_seq`, and its bytes in the database.

A cache of the fold, never the truth: whatever is wrong with the bytes, the answer is to drop them
and fold the log again.

Bytes, version 1, little-endian, no padding:

    offset  size  what
    0       4     magic "MLSN"
    4       2     version (1)
    6       2     pooled length / hidden (0 for `last` pooling, which keeps nothing; else 1)
    8       4     hidden H
    12      4     number of seen ordinals S
    16      4     number of excluded ordinals X
    20      8     user_seq
    28      8     steps
    36      4H    h, float32
    ...     4H    c, float32
    ...     4P    pooled, float32 (P = 0 or H)
    ...     8S    seen, int64 ascending
    ...     8X    excluded, int64 ascending
"""

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ray_jobs.encoders.errors import SessionError

_HEADER = struct.Struct("<4sHHIIIqq")
_MAGIC = b"MLSN"
_VERSION = 1


@dataclass(frozen=True, slots=True, eq=False)
class Session:
    """A user's state after the events 1..user_seq. Arrays are never written to.

    `h` and `c` have shape (H,); `pooled` is (0,) for `last` pooling, the sum of all h for `mean`,
    the average itself for `ema`. `steps` counts the events that were fed. `seen` and `excluded`
    are ascending int64 ordinals.
    """

    user_seq: int
    h: NDArray[np.float32]
    c: NDArray[np.float32]
    pooled: NDArray[np.float32]
    steps: int
    seen: NDArray[np.int64]
    excluded: NDArray[np.int64]

    def to_bytes(self) -> bytes:
        """The bytes described on top of this module."""
        hidden = len(self.h)
        header = _HEADER.pack(
            _MAGIC,
            _VERSION,
            1 if len(self.pooled) else 0,
            hidden,
            len(self.seen),
            len(self.excluded),
            self.user_seq,
            self.steps,
        )
        floats = (self.h, self.c, self.pooled)
        ordinals = (self.seen, self.excluded)
        return b"".join(
            (
                header,
                *(array.astype("<f4", copy=False).tobytes() for array in floats),
                *(array.astype("<i8", copy=False).tobytes() for array in ordinals),
            )
        )

    @staticmethod
    def from_bytes(data: bytes) -> "Session":
        """The session of these bytes; its arrays are read-only views where the machine allows.

        Raises:
            SessionError: another magic or version, or a size that does not match the header.
        """
        if len(data) < _HEADER.size:
            raise SessionError(f"{len(data)} bytes are too few for a header of {_HEADER.size}")
        magic, version, pools, hidden, seen, excluded, user_seq, steps = _HEADER.unpack_from(data)
        if magic != _MAGIC or version != _VERSION or pools > 1:
            raise SessionError(f"magic {magic!r}, version {version}, pooled {pools}")
        if user_seq < 0 or steps < 0:
            raise SessionError(f"user_seq {user_seq}, steps {steps}")
        floats = hidden * (2 + pools)
        expected = _HEADER.size + 4 * floats + 8 * (seen + excluded)
        if len(data) != expected:
            raise SessionError(f"{len(data)} bytes, the header promises {expected}")
        states = np.frombuffer(data, "<f4", floats, _HEADER.size).astype(np.float32, copy=False)
        ordinals = np.frombuffer(data, "<i8", seen + excluded, expected - 8 * (seen + excluded))
        ordinals = ordinals.astype(np.int64, copy=False)
        return Session(
            user_seq=user_seq,
            h=states[:hidden],
            c=states[hidden : 2 * hidden],
            pooled=states[2 * hidden :],
            steps=steps,
            seen=ordinals[:seen],
            excluded=ordinals[seen:],
        )
