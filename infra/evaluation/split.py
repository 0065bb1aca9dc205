"""The leave-one-out split: per user the last event is the test, the one before it validation.

Users and items with at least 5 events (items are filtered first, each once), the first event of
each user-item pair only. Every item that is left is ranked.

Shapes: U users, E events (by user, then time), I items.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infra.evaluation.errors import TooLittleData
from infra.evaluation.interactions import Interaction, Interactions

MIN_EVENTS = 5

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Items are numbered 0..I-1 in catalog order; user u has the events offsets[u]..offsets[u+1].

    The last event of each user is the test, the one before it validation, the rest training.
    """

    texts_I: tuple[str, ...]
    offsets_U1: Ints
    items_E: Ints
    kinds_E: tuple[str, ...]
    values_E: NDArray[np.float32]

    @property
    def test_items_U(self) -> Ints:
        """What each user did last: the answer."""
        return self.items_E[self.offsets_U1[1:] - 1]

    def history(self, user: int) -> range:
        """Events known when the test is asked: all before it, validation included."""
        return range(int(self.offsets_U1[user]), int(self.offsets_U1[user + 1]) - 1)

    def role_E(self) -> NDArray[np.str_]:
        """ "train", "valid" or "test" of each event."""
        role = np.full(len(self.items_E), "train")
        role[self.offsets_U1[1:] - 2] = "valid"
        role[self.offsets_U1[1:] - 1] = "test"
        return role

    def seen(self) -> NDArray[np.bool_]:
        """(U, I) what was seen before the test, and is not recommended."""
        seen_UI = np.zeros((len(self.offsets_U1) - 1, len(self.texts_I)), np.bool_)
        users_E = np.repeat(np.arange(len(seen_UI)), np.diff(self.offsets_U1))
        known = self.role_E() != "test"
        seen_UI[users_E[known], self.items_E[known]] = True
        return seen_UI


def leave_one_out(interactions: Interactions, data: str) -> Split:
    """Filter and split.

    Raises:
        TooLittleData: nobody is left.
    """
    pairs: dict[tuple[str, str], Interaction] = {}
    for event in interactions.events:
        if event.item_id in interactions.texts:
            pairs.setdefault((event.user_id, event.item_id), event)
    by_item = Counter(event.item_id for event in pairs.values())
    kept = [event for event in pairs.values() if by_item[event.item_id] >= MIN_EVENTS]
    by_user: dict[str, list[Interaction]] = {}
    for event in kept:
        by_user.setdefault(event.user_id, []).append(event)
    users = [events for events in by_user.values() if len(events) >= MIN_EVENTS]
    items = [item for item in interactions.texts if by_item[item] >= MIN_EVENTS]
    if not users:
        raise TooLittleData(data, len(users), len(items))
    index = {item: row for row, item in enumerate(items)}
    flat = [event for events in users for event in events]
    values = [np.nan if event.value is None else event.value for event in flat]
    return Split(
        texts_I=tuple(interactions.texts[item] for item in items),
        offsets_U1=np.cumsum([0, *map(len, users)]).astype(np.int64),
        items_E=np.array([index[event.item_id] for event in flat], np.int64),
        kinds_E=tuple(event.kind for event in flat),
        values_E=np.array(values, np.float32),
    )
