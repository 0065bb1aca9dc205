"""Boosted and pinned items are found from below the nearest ones, for Flat and IVF."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ray_jobs.ranking.rerank import Pin, rerank, weighed
from ray_jobs.shards.delta import Delta, DeltaChange
from ray_jobs.shards.items import Item, ItemTable, attributes_json
from ray_jobs.shards.reader import ShardSet
from serve.loaded_generation import CatalogView
from serve.policies import Boosts, PolicySet, boosts_of
from serve.retrieval import candidates_by_vector
from sql.policy import AttributeIs, BoostPolicy, Policy
from tests.unit.shards_builder import grid_vectors, write_generation

DIM, COUNT, WANTED = 6, 600, 12


def item(ordinal: int) -> Item:
    return Item(
        ordinal=ordinal,
        item_id=f"i{ordinal}",
        title="t",
        category=f"c{ordinal % 7}",
        attributes_json=attributes_json({"n": ordinal % 11}),
        published_at_ms=None,
        text_digest="d",
    )


class Catalog:
    """COUNT items, of which one is deleted and one has no vector."""

    deleted, bare = 17, COUNT

    def __init__(self, folder: Path, family: str) -> None:
        self.rng = np.random.default_rng(3)
        self.vectors = grid_vectors(self.rng, COUNT + 1, DIM)
        self.vectors[self.bare] = 0
        nlist = 0 if family == "Flat" else 8
        manifest = write_generation(
            folder,
            self.vectors[:COUNT],
            np.arange(COUNT, dtype=np.int64),
            family=family,  # type: ignore[arg-type]
            nlist=nlist,
            nprobe=nlist,
        )
        self.shards = ShardSet.open(folder, manifest)
        items = ItemTable.of(map(item, range(COUNT)))
        items = items.with_changes([item(self.bare)], [self.deleted])
        delta = Delta.empty(self.shards).apply([DeltaChange(self.deleted, None)])
        self.view = CatalogView(1, delta, items, 1)

    def made(self, *bodies: BoostPolicy) -> Boosts:
        policies = tuple(Policy(f"p{n}", body, n, 0) for n, body in enumerate(bodies))
        ordinals = {f"i{n}": n for n in range(COUNT + 1)}
        return boosts_of(PolicySet(1, 1, policies, ordinals), bodies, self.view.items)


@pytest.fixture(scope="module", params=["Flat", "IVF,SQfp16"])
def catalog(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    return Catalog(tmp_path_factory.mktemp("generation"), request.param)


def best(
    catalog: Catalog,
    query_D: NDArray[np.float32],
    totals: NDArray[np.float64],
    eligible: NDArray[np.bool_] | None,
    excluded: set[int],
) -> list[int]:
    """The whole list by brute force; without a vector there is no place in it."""
    score = catalog.vectors @ query_D + np.clip(totals, -1, 1)
    allowed = [
        n
        for n in range(COUNT)
        if n != catalog.deleted and n not in excluded and (eligible is None or eligible[n])
    ]
    return sorted(allowed, key=lambda n: (-score[n], n))


def test_boosts_give_the_list_of_a_full_sort(catalog: Catalog) -> None:
    bodies = (
        BoostPolicy(weight=-0.5, category="c0"),
        BoostPolicy(weight=0.25, category="c1"),
        BoostPolicy(weight=0.5, attribute=AttributeIs(name="n", value=4)),
        BoostPolicy(weight=1.0, attribute=AttributeIs(name="n", value=5)),
        BoostPolicy(weight=1.0, item_id="i77"),
        BoostPolicy(weight=0.125, item_id="i78"),
        BoostPolicy(weight=1.0, item_id=f"i{catalog.deleted}"),
        BoostPolicy(weight=1.0, item_id="unknown"),
    )
    totals = np.zeros(COUNT + 1)
    for n in range(COUNT + 1):
        totals[n] += -0.5 * (n % 7 == 0) + 0.25 * (n % 7 == 1)
        totals[n] += 0.5 * (n % 11 == 4) + 1.0 * (n % 11 == 5)
        totals[n] += 1.0 * (n == 77) + 0.125 * (n == 78)
    boosts = catalog.made(*bodies)
    for number in range(25):
        query_D = grid_vectors(catalog.rng, 1, DIM)[0]
        mask = catalog.view.items.matching("c2", {}) | catalog.view.items.matching("c0", {})
        eligible = mask if number % 2 else None
        excluded = set(catalog.rng.choice(COUNT, 30).tolist())
        found = candidates_by_vector(
            catalog.shards,
            catalog.view,
            query_D,
            WANTED,
            eligible=eligible,
            excluded=np.array(sorted(excluded), np.int64),
            boosts=boosts,
        )
        page = rerank(
            weighed(found, boosts=boosts.totals_S), eligible=eligible, excluded=excluded, k=WANTED
        )
        assert page.ordinals.tolist() == best(catalog, query_D, totals, eligible, excluded)[:WANTED]


def test_items_boosted_by_id_rise_from_below_the_nearest(catalog: Catalog) -> None:
    boosted = range(100, 200)
    boosts = catalog.made(*(BoostPolicy(weight=1.0, item_id=f"i{n}") for n in boosted))
    totals = np.zeros(COUNT + 1)
    totals[list(boosted)] = 1.0
    nothing = np.zeros(0, np.int64)
    for _ in range(10):
        query_D = grid_vectors(catalog.rng, 1, DIM)[0]
        found = candidates_by_vector(
            catalog.shards,
            catalog.view,
            query_D,
            WANTED,
            eligible=None,
            excluded=nothing,
            boosts=boosts,
        )
        page = rerank(weighed(found, boosts=boosts.totals_S), k=WANTED)
        assert page.ordinals.tolist() == best(catalog, query_D, totals, None, set())[:WANTED]


def test_a_pinned_item_far_down_is_shown_and_a_deleted_one_is_not(catalog: Catalog) -> None:
    query_D = grid_vectors(catalog.rng, 1, DIM)[0]
    order = best(catalog, query_D, np.zeros(COUNT + 1), None, set())
    last = order[-1]
    pins = [Pin(2, last), Pin(1, catalog.deleted), Pin(4, catalog.bare), Pin(5, 10_000)]
    listed: list[int] = []
    for offset in (0, 4, 8):
        found = candidates_by_vector(
            catalog.shards,
            catalog.view,
            query_D,
            offset + 4 + len(pins),
            eligible=None,
            excluded=np.zeros(0, np.int64),
            pins=pins,
        )
        page = rerank(weighed(found), pins=pins, k=4, offset=offset)
        listed += page.ordinals.tolist()
    assert listed == [order[0], last, order[1], catalog.bare, *order[2:10]]
