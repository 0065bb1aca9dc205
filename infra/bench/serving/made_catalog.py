"""A made catalog and a made history: vectors in clusters as real embeddings are, users with tastes.

Clusters have sizes as a power of their rank, an item is its cluster's centre and noise, and a user
acts on the more popular items of a few clusters. N items, E text_dim, C clusters.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ray_jobs.encoders.item_text import compose, text_digest
from ray_jobs.ranking.trend import HOUR_MS
from sql.catalog import ItemBody, ItemPut
from sql.events import EventKind, NewEvent

CATEGORIES = 50
ITEMS_A_CLUSTER = 500
MEMBERS = 400
"""The items of a cluster that users act on."""
NOISE = 1.2
"""Length of an item's noise beside its centre's 1: cosines of about 0.4 within a cluster, as
MiniLM's are among films of a genre."""
RANK_POWER = 0.7
EVENTS = (10, 31)
"""Of a user, from and below."""
TASTES = 3
DAYS = 30
YEARS_MS = 2 * 365 * 24 * HOUR_MS
KINDS = (EventKind.VIEW, EventKind.CLICK, EventKind.PURCHASE)
KIND_SHARES = (0.6, 0.35, 0.05)
ROWS_AT_ONCE = 50_000


@dataclass(frozen=True)
class MadeCatalog:
    """Which items are where. `clusters_N`: of each item; `centres_CE`: unit vectors."""

    clusters_N: NDArray[np.int32]
    centres_CE: NDArray[np.float32]
    seed: int

    @classmethod
    def make(cls, items: int, text_dim: int, seed: int) -> MadeCatalog:
        """`items` items; the same seed makes the same."""
        rng = np.random.default_rng(seed)
        clusters = max(8, items // ITEMS_A_CLUSTER)
        shares = np.arange(1, clusters + 1) ** -RANK_POWER
        numbers = rng.choice(clusters, size=items, p=shares / shares.sum())
        centres = rng.normal(size=(clusters, text_dim)).astype(np.float32)
        return cls(numbers.astype(np.int32), _unit(centres), seed)

    def __len__(self) -> int:
        return len(self.clusters_N)

    def vectors(self) -> NDArray[np.float32]:
        """Unit BERT vectors (N, E), by item number."""
        rng = np.random.default_rng(self.seed + 1)
        text_dim = self.centres_CE.shape[1]
        made_NE = np.empty((len(self), text_dim), np.float32)
        for first in range(0, len(self), ROWS_AT_ONCE):
            clusters = self.clusters_N[first : first + ROWS_AT_ONCE]
            noise = rng.standard_normal((len(clusters), text_dim), np.float32)
            noise *= NOISE / np.sqrt(text_dim)
            made_NE[first : first + ROWS_AT_ONCE] = _unit(self.centres_CE[clusters] + noise)
        return made_NE

    def puts(self, now_ms: int) -> Iterator[ItemPut]:
        """The items i0, i1, ... as the gateway puts them, without vectors: the night has those."""
        published = np.random.default_rng(self.seed + 2).integers(YEARS_MS, size=len(self))
        for number, (cluster, age_ms) in enumerate(
            zip(self.clusters_N.tolist(), published.tolist(), strict=True)
        ):
            title, category = f"Made item {number} of kind {cluster}", f"c{cluster % CATEGORIES}"
            text = compose(title, "", category)
            body = ItemBody(title=title, category=category, published_at_ms=now_ms - age_ms)
            yield ItemPut(item_id(number), body, text, text_digest(text), None, {})

    def histories(self, users: int, now_ms: int) -> Iterator[list[NewEvent]]:
        """The past of u0, u1, ...: each a list of events in order of time."""
        rng = np.random.default_rng(self.seed + 3)
        members = self._members()
        kinds = np.array(KINDS, dtype=object)
        for user in range(users):
            count = int(rng.integers(*EVENTS))
            tastes = self.clusters_N[rng.integers(len(self), size=TASTES)]
            of_event = tastes[rng.integers(TASTES, size=count)]
            # The square draws the front of a cluster's members more often: they are popular.
            places = rng.random(count) ** 2
            chosen = [
                int(members[cluster][int(place * len(members[cluster]))])
                for cluster, place in zip(of_event.tolist(), places.tolist(), strict=True)
            ]
            times = np.sort(now_ms - rng.integers(1, DAYS * 24 * HOUR_MS, size=count))
            drawn = rng.choice(len(KINDS), size=count, p=KIND_SHARES)
            yield [
                NewEvent(user_id(user), f"h{n}", kinds[kind], item_id(item), occurred_at_ms=at_ms)
                for n, (kind, item, at_ms) in enumerate(
                    zip(drawn.tolist(), chosen, times.tolist(), strict=True)
                )
            ]

    def _members(self) -> list[NDArray[np.int64]]:
        order = np.argsort(self.clusters_N, kind="stable")
        ends = np.cumsum(np.bincount(self.clusters_N, minlength=len(self.centres_CE)))
        return [part[:MEMBERS] for part in np.split(order, ends[:-1])]


def item_id(number: int) -> str:
    """Of the item with that number, which is also its ordinal."""
    return f"i{number}"


def user_id(number: int) -> str:
    """Of the user with that number."""
    return f"u{number}"


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    unit: NDArray[np.float32] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit
