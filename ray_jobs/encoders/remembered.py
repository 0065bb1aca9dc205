"""What a session remembers of items besides the LSTM's state: seen, excluded and recent ones.

Part of `fold`. One more event is what the day folds for almost every answer, so it has a way of
its own: a compiled loop instead of forty calls of numpy. Tests hold the two equal, since a log
folded event by event must give what it gives at once.

Shapes: S seen ordinals, E events.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ray_jobs.compiled import BYTES, INT, INTS, WRITTEN_BYTES, WRITTEN_INTS, kernel
from ray_jobs.encoders.config import EXCLUDING_KINDS, PURCHASE, SEEN_BITS
from ray_jobs.encoders.session import MAX_RECENT, Session

Ordinals = NDArray[np.int64]


class NotedEvent(Protocol):
    """What is read of an event; `fold.FoldEvent` is one."""

    @property
    def kind(self) -> str: ...
    @property
    def ordinal(self) -> int | None: ...
    @property
    def at_ms(self) -> int: ...


class Remembered(NamedTuple):
    """The last fields of a session, in its order."""

    seen: Ordinals
    seen_kinds: NDArray[np.uint8]
    bought_ms: NDArray[np.int64]
    excluded: Ordinals
    recent: Ordinals


def remembered(start: Session, counted: Sequence[NotedEvent]) -> Remembered:
    """After the effective events that follow `start`."""
    if len(counted) == 1:
        return _after_one(start, counted[0])
    known = [event for event in counted if event.ordinal is not None]
    excluding = [event.ordinal for event in known if event.kind in EXCLUDING_KINDS]
    excluded = start.excluded
    if excluding:
        excluded = np.union1d(excluded, np.array(excluding, np.int64))
    new = [event for event in known if event.kind in SEEN_BITS]
    if not new:
        return Remembered(start.seen, start.seen_kinds, start.bought_ms, excluded, start.recent)
    return Remembered(*_seen_after(start, new), excluded, _recent_after(start.recent, new))


def _after_one(start: Session, event: NotedEvent) -> Remembered:
    seen, excluded = start.seen, start.excluded
    ordinal, bit = event.ordinal, SEEN_BITS.get(event.kind)
    if ordinal is not None and event.kind in EXCLUDING_KINDS:
        place = int(excluded.searchsorted(ordinal))
        if place == len(excluded) or excluded[place] != ordinal:
            excluded = _with(excluded, place, ordinal)
    if ordinal is None or bit is None:
        return Remembered(seen, start.seen_kinds, start.bought_ms, excluded, start.recent)
    at_ms = max(0, event.at_ms) if event.kind == PURCHASE else 0
    room = len(seen) + 1
    seen_after, bought_ms = np.empty(room, np.int64), np.empty(room, np.int64)
    kinds = np.empty(room, np.uint8)
    recent = np.empty(min(MAX_RECENT, len(start.recent) + 1), np.int64)
    count, recent_count = _note(
        *(seen, start.seen_kinds, start.bought_ms, start.recent, ordinal, bit, at_ms),
        *(seen_after, kinds, bought_ms, recent),
    )
    if count < room:
        seen_after, kinds, bought_ms = seen_after[:count], kinds[:count], bought_ms[:count]
    if recent_count < len(recent):
        recent = recent[:recent_count]
    return Remembered(seen_after, kinds, bought_ms, excluded, recent)


@kernel(
    *(INTS, BYTES, INTS, INTS, INT, INT, INT),
    *(WRITTEN_INTS, WRITTEN_BYTES, WRITTEN_INTS, WRITTEN_INTS),
)
def _note(
    seen: Ordinals,
    kinds: NDArray[np.uint8],
    bought_ms: Ordinals,
    recent: Ordinals,
    ordinal: int,
    bit: int,
    at_ms: int,
    seen_after: Ordinals,
    kinds_after: NDArray[np.uint8],
    bought_ms_after: Ordinals,
    recent_after: Ordinals,
) -> tuple[int, int]:
    """Fills the arrays of after one more event; how many are seen and recent then. Those of seen
    have room for one more, `recent_after` for as many as are kept."""
    count = len(seen)
    place = 0
    for known in seen:  # ascending; a loop without a branch that may be guessed wrong
        place += known < ordinal
    is_new = place == count or seen[place] != ordinal
    # Two loops each, and no condition in them: so they are copies of many numbers at once.
    for row in range(place):
        seen_after[row] = seen[row]
        kinds_after[row] = kinds[row]
        bought_ms_after[row] = bought_ms[row]
    for row in range(place, count):
        seen_after[row + is_new] = seen[row]
        kinds_after[row + is_new] = kinds[row]
        bought_ms_after[row + is_new] = bought_ms[row]
    if is_new:
        seen_after[place], kinds_after[place], bought_ms_after[place] = ordinal, bit, at_ms
    else:
        kinds_after[place] |= bit
        bought_ms_after[place] = max(at_ms, bought_ms[place])
    length = len(recent)
    before = length  # of the same item, which is there once at most
    for row in range(length):
        before = row if recent[row] == ordinal else before
    others = length - (before < length)
    left_out = max(0, others + 1 - len(recent_after))
    oldest = left_out + (left_out > before)
    kept = max(0, before - oldest)
    for row in range(kept):
        recent_after[row] = recent[oldest + row]
    newer = max(oldest, before + 1)
    for row in range(newer, length):
        recent_after[kept + row - newer] = recent[row]
    kept = others - left_out
    recent_after[kept] = ordinal
    return count + is_new, kept + 1


def _with(array: Ordinals, place: int, value: int) -> Ordinals:
    """A copy with the value put in at a place. np.insert takes 8 us, this 0.6."""
    longer = np.empty(len(array) + 1, array.dtype)
    longer[:place] = array[:place]
    longer[place] = value
    longer[place + 1 :] = array[place:]
    return longer


def _seen_after(
    start: Session, new: Sequence[NotedEvent]
) -> tuple[Ordinals, NDArray[np.uint8], NDArray[np.int64]]:
    """Seen ordinals, their kinds and last purchases (S,). Bits are joined and of times the last is
    kept, so it is the same however the log is cut."""
    ordinals_E = np.array([event.ordinal for event in new], np.int64)
    seen = np.union1d(start.seen, ordinals_E)
    kinds, bought_ms = np.zeros(len(seen), np.uint8), np.zeros(len(seen), np.int64)
    before = np.searchsorted(seen, start.seen)
    kinds[before], bought_ms[before] = start.seen_kinds, start.bought_ms
    rows_E = np.searchsorted(seen, ordinals_E)
    np.bitwise_or.at(kinds, rows_E, np.array([SEEN_BITS[event.kind] for event in new], np.uint8))
    times_E = np.array([event.at_ms if event.kind == PURCHASE else 0 for event in new], np.int64)
    np.maximum.at(bought_ms, rows_E, times_E)
    return seen, kinds, bought_ms


def _recent_after(known: Ordinals, new: Sequence[NotedEvent]) -> Ordinals:
    """The last MAX_RECENT distinct items: whatever is among them at the end of the log is among the
    last ones of each part of it, so it is the same however the log is cut."""
    newest_first = dict.fromkeys([*(e.ordinal for e in reversed(new)), *reversed(known.tolist())])
    return np.array(list(newest_first)[:MAX_RECENT][::-1], np.int64)
