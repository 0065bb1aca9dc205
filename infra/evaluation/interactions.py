"""What is evaluated on: items with the text that BERT reads, and events in order.

    load_interactions("ml-100k")     MovieLens 100K as `python -m infra.datasets` left it
    load_interactions("some/folder") recognised by its files: MovieLens, the Interactive Fiction
                                     Database (`ifdb`), Online Retail II (`online_retail`), else
                                     `items.*` and `events.*` as `moonlark ingest` reads them

Ties: stable by time, then file order. Only the first event of a user-item pair counts.

Shapes: E events, I items.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ray_jobs.encoders.config import KINDS

Ints = NDArray[np.int64]

DAY_MS = 86_400_000
LONG_AGO_MS = -(10**15)
"""Published at an unknown time: a candidate at all times."""


@dataclass(frozen=True, slots=True)
class ReplayRule:
    """How a data set is replayed: see `infra.evaluation.replay`."""

    cut_ms: int
    """Events before it are history, those from it on are asked for."""
    validation_days: int
    """The days before the cut on which weights and options are chosen."""
    question: Literal["event", "basket"] = "event"
    """One question an event, or one for all events of a user at one time."""


@dataclass(frozen=True, slots=True, eq=False)
class Interactions:
    """Users and items are numbered from 0; items keep the order of their file.

    `published_ms_I` is None where every item is a candidate at all times.
    """

    name: str
    texts_I: tuple[str, ...]
    users_E: Ints
    items_E: Ints
    at_ms_E: Ints
    kinds_E: Ints
    """Row of KINDS."""
    values_E: NDArray[np.float32]
    """Rating, NaN where there is none."""
    published_ms_I: Ints | None
    rule: ReplayRule | None

    @property
    def user_count(self) -> int:
        """Users with an event."""
        return int(self.users_E.max(initial=-1)) + 1

    @property
    def item_count(self) -> int:
        """Items, with events or without."""
        return len(self.texts_I)


def from_columns(
    name: str,
    texts_I: Sequence[str],
    users_E: Ints,
    items_E: Ints,
    at_ms_E: Ints,
    kinds_E: Sequence[str] | str,
    values_E: NDArray[np.float32] | None = None,
    published_ms_I: Ints | None = None,
    rule: ReplayRule | None = None,
) -> Interactions:
    """Interactions from columns in file order: sorted, and repeats of a pair left out.

    Raises:
        ValueError: an unknown kind, or an item out of range.
    """
    if len(items_E) and not 0 <= items_E.min() <= items_E.max() < len(texts_I):
        raise ValueError(f"items must lie in 0..{len(texts_I) - 1}")
    order = np.argsort(at_ms_E, kind="stable")
    pairs = users_E[order].astype(np.int64) * max(1, len(texts_I)) + items_E[order]
    _, first_times = np.unique(pairs, return_index=True)
    kept = order[np.sort(first_times)]
    if isinstance(kinds_E, str):
        kinds = np.full(len(kept), KINDS.index(kinds_E), np.int64)
    else:
        rows = {kind: KINDS.index(kind) for kind in set(kinds_E)}
        kinds = np.array([rows[kinds_E[event]] for event in kept], np.int64)
    values = np.full(len(users_E), np.nan, np.float32) if values_E is None else values_E
    return Interactions(
        name=name,
        texts_I=tuple(texts_I),
        users_E=users_E[kept].astype(np.int64),
        items_E=items_E[kept].astype(np.int64),
        at_ms_E=at_ms_E[kept].astype(np.int64),
        kinds_E=kinds,
        values_E=values[kept].astype(np.float32),
        published_ms_I=published_ms_I,
        rule=rule,
    )
