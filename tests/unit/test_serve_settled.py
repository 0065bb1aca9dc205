"""What a replica holds is frozen when it begins and at each change, and freed all the same."""

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from infra.drills.catalog import fill_catalog
from infra.drills.generation import make_generation
from ray_jobs.shards.search import search
from serve.loaded_generation import LoadedGeneration
from serve.settled import Settled
from sql.engine import migrate, open_engine


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    """As every other test has it."""
    yield
    gc.unfreeze()
    gc.enable()


def test_what_is_there_is_frozen_once_for_each_change() -> None:
    loaded = {"g1": object()}
    settled = Settled(lambda: loaded)
    settled.round()
    frozen = gc.get_freeze_count()
    assert frozen > 10_000  # the modules alone are as many
    kept = [[n] for n in range(1_000)]
    settled.round()
    assert gc.get_freeze_count() <= frozen  # some was freed, nothing is frozen anew
    loaded["g2"] = object()
    settled.round()
    assert gc.get_freeze_count() > frozen + len(kept) / 2


def test_a_generation_that_is_let_go_is_freed_without_the_collector(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'moonlark.db'}")
    migrate(engine)
    fill_catalog(engine, 20, np.random.default_rng(1), at_ms=1)
    make_generation(engine, tmp_path, "g1", seed=1, at_ms=1)
    gc.disable()
    held = LoadedGeneration.open(tmp_path, "g1")
    held.catch_up(engine)
    held.warm()
    query_D = np.zeros(held.shards.dim, np.float32)
    query_D[0] = 1.0
    assert len(search(held.shards, held.view.delta, query_D, 5)[1])
    gc.freeze()
    parts = [weakref.ref(part) for part in (held, held.shards, held.view.items.blocks[0])]
    del held
    assert [part() for part in parts] == [None] * 3
    engine.dispose()
