"""A session: a user's state at `user_seq`, and its bytes in the database.

A cache of the fold, never the truth: whatever is wrong with the bytes, the answer is to drop them
and fold the log again.

Bytes, version 3, little-endian, no padding:

    offset  size  what
    0       4     magic "MLSN"
    4       2     version (3)
    6       2     pooled length / hidden (0 for `last` pooling, which keeps nothing; else 1)
    8       4     hidden H
    12      4     number of seen ordinals S
    16      4     number of excluded ordinals X
    20      4     number of bought ordinals B
    24      4     number of recent ordinals R
    28      8     user_seq
    36      8     steps
    44      4H    h, float32
    ...     4H    c, float32
    ...     4P    pooled, float32 (P = 0 or H)
    ...     8S    seen, int64 ascending
    ...     8X    excluded, int64 ascending
    ...     8R    recent, int64, newest last
    ...     8B    last purchase of each seen ordinal that has the purchase bit, int64 ms
    ...     S     kinds of each seen ordinal: the sum of their SEEN_BITS (config.py), uint8

Older versions had no recent ordinals; they are refused, and the log folded again.
"""

import struct
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ray_jobs.encoders.config import PURCHASE, SEEN_BITS
from ray_jobs.encoders.errors import SessionError

_HEADER = struct.Struct("<4sHHIIIIIqq")
_MAGIC = b"MLSN"
_VERSION = 3
_BOUGHT = SEEN_BITS[PURCHASE]

MAX_RECENT = 50
"""Distinct items seen last that a session keeps: what re-ranking looks beside."""


class Session(NamedTuple):
    """A user's state after the events 1..user_seq. Arrays are never written to. (A tuple, since one
    is made for each event: a frozen dataclass takes 2 us more.)

    `h` and `c` have shape (H,); `pooled` is (0,) for `last` pooling, the sum of all h for `mean`,
    the average itself for `ema`. `steps` counts the events that were fed. `seen` (S,) and
    `excluded` are ascending int64 ordinals. `seen_kinds` (S,) uint8 says by which kinds of
    effective events each was seen, as a sum of SEEN_BITS; `bought_ms` (S,) int64 when it was last
    bought, 0 where it was not. `recent` (<= MAX_RECENT,) int64: the items seen last, each once, by
    its last time, newest last.
    """

    user_seq: int
    h: NDArray[np.float32]
    c: NDArray[np.float32]
    pooled: NDArray[np.float32]
    steps: int
    seen: NDArray[np.int64]
    seen_kinds: NDArray[np.uint8]
    bought_ms: NDArray[np.int64]
    excluded: NDArray[np.int64]
    recent: NDArray[np.int64]

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Of h, c and pooled."""
        return len(self.h), len(self.c), len(self.pooled)

    @property
    def is_bought(self) -> NDArray[np.bool_]:
        """Whether each seen ordinal was bought, (S,)."""
        bought: NDArray[np.bool_] = self.seen_kinds & _BOUGHT != 0
        return bought

    def to_bytes(self) -> bytes:
        """The bytes described on top of this module."""
        bought_ms = self.bought_ms[self.is_bought]
        header = _HEADER.pack(
            _MAGIC,
            _VERSION,
            1 if len(self.pooled) else 0,
            len(self.h),
            len(self.seen),
            len(self.excluded),
            len(bought_ms),
            len(self.recent),
            self.user_seq,
            self.steps,
        )
        floats = (self.h, self.c, self.pooled)
        numbers = (self.seen, self.excluded, self.recent, bought_ms)
        return b"".join(
            (
                header,
                *(array.astype("<f4", copy=False).tobytes() for array in floats),
                *(array.astype("<i8", copy=False).tobytes() for array in numbers),
                self.seen_kinds.tobytes(),
            )
        )

    @staticmethod
    def from_bytes(data: bytes) -> "Session":
        """The session of these bytes; its arrays are read-only views where the machine allows.

        Raises:
            SessionError: another magic or version, or sizes that do not match the header.
        """
        if len(data) < _HEADER.size:
            raise SessionError(f"{len(data)} bytes are too few for a header of {_HEADER.size}")
        fields = _HEADER.unpack_from(data)
        magic, version, pools, hidden, seen, excluded, bought, recent, user_seq, steps = fields
        if magic != _MAGIC or version != _VERSION or pools > 1:
            raise SessionError(f"magic {magic!r}, version {version}, pooled {pools}")
        if user_seq < 0 or steps < 0:
            raise SessionError(f"user_seq {user_seq}, steps {steps}")
        floats, longs = hidden * (2 + pools), seen + excluded + recent + bought
        expected = _HEADER.size + 4 * floats + 8 * longs + seen
        if len(data) != expected:
            raise SessionError(f"{len(data)} bytes, the header promises {expected}")
        states = np.frombuffer(data, "<f4", floats, _HEADER.size).astype(np.float32, copy=False)
        numbers = np.frombuffer(data, "<i8", longs, expected - seen - 8 * longs)
        numbers = numbers.astype(np.int64, copy=False)
        seen_kinds = np.frombuffer(data, np.uint8, seen, expected - seen)
        is_bought = seen_kinds & _BOUGHT != 0
        if np.count_nonzero(is_bought) != bought:
            raise SessionError(f"{bought} purchases, {np.count_nonzero(is_bought)} bought items")
        bought_ms = np.zeros(seen, np.int64)
        bought_ms[is_bought] = numbers[seen + excluded + recent :]
        return Session(
            user_seq=user_seq,
            h=states[:hidden],
            c=states[hidden : 2 * hidden],
            pooled=states[2 * hidden :],
            steps=steps,
            seen=numbers[:seen],
            seen_kinds=seen_kinds,
            bought_ms=bought_ms,
            excluded=numbers[seen : seen + excluded],
            recent=numbers[seen + excluded : seen + excluded + recent],
        )
