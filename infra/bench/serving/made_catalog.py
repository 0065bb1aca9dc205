"""A made catalog and a made history: vectors in clusters as real embeddings are, users with tastes.

The texts lie as `infra.bench.vectors` says, and a user acts on the more popular items of a few
clusters of one topic. N items, E text_dim, C clusters.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infra.bench.vectors import Clusters
from ray_jobs.encoders.item_text import compose, text_digest
from ray_jobs.ranking.trend import HOUR_MS
from sql.catalog import ItemBody, ItemPut
from sql.events import EventKind, NewEvent

CATEGORIES = 50
MEMBERS = 400
"""The items of a cluster that users act on."""
EVENTS = (10, 31)
"""Of a user, from and below."""
TASTES = 3
DAYS = 30
YEARS_MS = 2 * 365 * 24 * HOUR_MS
KINDS = (EventKind.VIEW, EventKind.CLICK, EventKind.PURCHASE)
KIND_SHARES = (0.6, 0.35, 0.05)


@dataclass(frozen=True)
class MadeCatalog:
    """Which items are where."""

    clusters: Clusters
    seed: int

    @classmethod
    def make(cls, items: int, text_dim: int, seed: int) -> MadeCatalog:
        """`items` items; the same seed makes the same."""
        return cls(Clusters.make(np.random.default_rng(seed), items, text_dim), seed)

    def __len__(self) -> int:
        return len(self.clusters.cluster_N)

    def vectors(self) -> NDArray[np.float32]:
        """Unit BERT vectors (N, E), by item number."""
        return self.clusters.vectors(np.random.default_rng(self.seed + 1))

    def puts(self, now_ms: int) -> Iterator[ItemPut]:
        """The items i0, i1, ... as the gateway puts them, without vectors: the night has those."""
        published = np.random.default_rng(self.seed + 2).integers(YEARS_MS, size=len(self))
        for number, (cluster, age_ms) in enumerate(
            zip(self.clusters.cluster_N.tolist(), published.tolist(), strict=True)
        ):
            title, category = f"Made item {number} of kind {cluster}", f"c{cluster % CATEGORIES}"
            text = compose(title, "", category)
            body = ItemBody(title=title, category=category, published_at_ms=now_ms - age_ms)
            yield ItemPut(item_id(number), body, text, text_digest(text), None, {})

    def histories(self, users: int, now_ms: int) -> Iterator[list[NewEvent]]:
        """The past of u0, u1, ...: each a list of events in order of time."""
        rng = np.random.default_rng(self.seed + 3)
        members = self._members()
        topics = self._topics()
        kinds = np.array(KINDS, dtype=object)
        for user in range(users):
            count = int(rng.integers(*EVENTS))
            one = self.clusters.topic_C[self.clusters.cluster_N[rng.integers(len(self))]]
            tastes = topics[one][rng.integers(len(topics[one]), size=TASTES)]
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
        """Items of each cluster."""
        return [part[:MEMBERS] for part in _places_of(self.clusters.cluster_N)]

    def _topics(self) -> list[NDArray[np.int64]]:
        """Clusters of each topic, each as often as it has items: a draw is by size."""
        by_item = self.clusters.cluster_N
        return [by_item[places] for places in _places_of(self.clusters.topic_C[by_item])]


def _places_of(numbers_N: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Where 0 stands in them, where 1 does, and so on."""
    order = np.argsort(numbers_N, kind="stable")
    return np.split(order, np.cumsum(np.bincount(numbers_N))[:-1])


def item_id(number: int) -> str:
    """Of the item with that number, which is also its ordinal."""
    return f"i{number}"


def user_id(number: int) -> str:
    """Of the user with that number."""
    return f"u{number}"
