"""What `fit` learns from: flat, validated columns of effective events, and the catalog's texts.

Shapes: U users, E events (sorted by user, then user_seq), N texts, I items, T text_dim.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ray_jobs.encoders.config import KINDS, SEEN_KINDS

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class TrainData:
    """Effective events of all users, and the catalog. Build it with `from_columns`."""

    bert_NT: NDArray[np.float32]
    """Text vectors: of items and, where there are, of searches and comments."""
    item_ordinals_I: Ints
    """Ordinals of the catalog, ascending: what the softmax runs over."""
    item_texts_I: Ints
    """Row of `bert_NT` of each item's present text."""
    offsets_U1: Ints
    """User u has the events offsets[u] .. offsets[u + 1]."""
    texts_E: Ints
    """Row of `bert_NT` that the event feeds, -1 for the unknown vector."""
    items_E: Ints
    """Position in the catalog of the event's item, -1 for none (a search, a deleted item)."""
    kinds_E: Ints
    """Row of KINDS."""
    values_E: NDArray[np.float32]
    """Rating, NaN where there is none."""
    held_out_E: NDArray[np.bool_]
    """Validation: never trained on. Always the last events of a user."""
    moments_E: Ints
    """First of the events that happened at the same time as this one, for the same user: they are
    asked for together, from the state before all of them. The lines of a basket come in the order
    of a file, and a model that learns to go on within it has learned nothing about the next one."""

    @property
    def user_count(self) -> int:
        """Users with events."""
        return len(self.offsets_U1) - 1

    def targets_E(self) -> NDArray[np.bool_]:
        """Events worth predicting: the first time that a user sees an item of the catalog.

        Not dislikes and hides, and not repeats: what was seen is not recommended again.
        """
        seen_K = np.array([kind in SEEN_KINDS for kind in KINDS])
        candidates = np.flatnonzero((self.items_E >= 0) & seen_K[self.kinds_E])
        users = np.searchsorted(self.offsets_U1, candidates, side="right")
        pairs = users * max(1, len(self.item_ordinals_I)) + self.items_E[candidates]
        _, first_times = np.unique(pairs, return_index=True)
        targets_E = np.zeros(len(self.items_E), np.bool_)
        targets_E[candidates[first_times]] = True
        return targets_E


def from_columns(
    *,
    users_E: Ints,
    ordinals_E: Ints,
    texts_E: Ints,
    kinds_E: Sequence[str],
    values_E: NDArray[np.float32],
    held_out_E: NDArray[np.bool_],
    bert_NT: NDArray[np.float32],
    item_ordinals_I: Ints,
    item_texts_I: Ints,
    at_ms_E: Ints | None = None,
) -> TrainData:
    """TrainData from columns in log order.

    Args:
        users_E: any integer key of the user; one user's events are adjacent and in log order, and
            effective (undone ones are left out already).
        ordinals_E: the item's ordinal, -1 for none. One that is not in the catalog is fed by its
            text but is no target.
        texts_E, kinds_E, values_E, held_out_E, bert_NT: as in TrainData; kinds by name.
        item_ordinals_I, item_texts_I: the catalog, ordinals ascending.
        at_ms_E: when each event happened (any numbers: equal ones are one time); None: each at a
            time of its own.

    Raises:
        ValueError: columns of unequal length, a row out of range, an unknown kind, users that are
            not adjacent, a held-out event before a training event of the same user.
    """
    count = len(users_E)
    columns = [ordinals_E, texts_E, kinds_E, values_E, held_out_E]
    columns += [] if at_ms_E is None else [at_ms_E]
    if any(len(column) != count for column in columns):
        raise ValueError(f"event columns differ in length: {[len(c) for c in columns]} != {count}")
    item_ordinals_I = np.asarray(item_ordinals_I, np.int64)
    if len(item_ordinals_I) != len(item_texts_I) or bool(np.any(np.diff(item_ordinals_I) <= 0)):
        raise ValueError("item_ordinals_I must ascend, with one row of item_texts_I each")
    for name, rows, lowest in (("texts_E", texts_E, -1), ("item_texts_I", item_texts_I, 0)):
        if len(rows) and (rows.min() < lowest or rows.max() >= len(bert_NT)):
            raise ValueError(f"{name} must lie in {lowest}..{len(bert_NT) - 1}")
    starts = np.flatnonzero(np.diff(users_E, prepend=users_E[0] - 1)) if count else np.zeros(0, int)
    if len(np.unique(users_E)) != len(starts):
        raise ValueError("the events of a user must be adjacent")
    offsets_U1 = np.append(starts, count).astype(np.int64)
    held_out = np.asarray(held_out_E, np.bool_)
    same_user = np.diff(users_E) == 0
    if bool(np.any(held_out[:-1] & ~held_out[1:] & same_user)):
        raise ValueError("held-out events must be the last ones of their user")
    return TrainData(
        bert_NT=np.ascontiguousarray(bert_NT, dtype=np.float32),
        item_ordinals_I=item_ordinals_I,
        item_texts_I=np.asarray(item_texts_I, np.int64),
        offsets_U1=offsets_U1,
        texts_E=np.asarray(texts_E, np.int64),
        items_E=_positions(item_ordinals_I, np.asarray(ordinals_E, np.int64)),
        kinds_E=_kind_rows(kinds_E),
        values_E=np.asarray(values_E, np.float32),
        held_out_E=held_out,
        moments_E=_moments(users_E, at_ms_E),
    )


def _moments(users_E: Ints, at_ms_E: Ints | None) -> Ints:
    """Adjacent events of one user and time share the first one's position."""
    positions_E = np.arange(len(users_E))
    if at_ms_E is None or not len(users_E):
        return positions_E
    is_first_E = np.ones(len(users_E), np.bool_)
    is_first_E[1:] = (np.diff(users_E) != 0) | (np.diff(at_ms_E) != 0)
    firsts = np.flatnonzero(is_first_E)
    moments_E: Ints = firsts[np.cumsum(is_first_E) - 1]
    return moments_E


def _positions(catalog_I: Ints, ordinals_E: Ints) -> Ints:
    if not len(catalog_I):
        return np.full(len(ordinals_E), -1, np.int64)
    found = np.minimum(np.searchsorted(catalog_I, ordinals_E), len(catalog_I) - 1)
    return np.where(catalog_I[found] == ordinals_E, found, -1).astype(np.int64)


def _kind_rows(kinds_E: Sequence[str]) -> Ints:
    names, inverse = np.unique(np.asarray(kinds_E, dtype=str), return_inverse=True)
    unknown = sorted(set(names.tolist()) - set(KINDS))
    if unknown:
        raise ValueError(f"unknown kinds {unknown}, accepted: {', '.join(KINDS)}")
    rows = np.array([KINDS.index(name) for name in names.tolist()], dtype=np.int64)
    return rows[inverse] if len(rows) else np.zeros(0, np.int64)
