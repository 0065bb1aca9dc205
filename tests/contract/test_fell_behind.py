"""A replica that cannot load what the others answer from is taken out; a bad generation is not."""

from pathlib import Path
from threading import Event

import numpy as np
import pytest
from sqlalchemy import Engine

from infra.drills.catalog import fill_catalog, item_put
from infra.drills.generation import make_generation
from ray_jobs.nightly.publish import wait_for_replicas
from serve.generation_watch import (
    LOADS_FOR,
    RETRY_REFUSED_AFTER,
    TAKEN_OUT_AFTER,
    FellBehind,
    GenerationWatch,
)
from serve.loaded_generation import LoadedGeneration
from sql import catalog
from sql.engine import read_snapshot
from sql.generations import flip, fresh_replicas, stage
from tests.contract.store_builder import NOW_MS


def test_a_replica_behind_the_others_fails_its_health_check_until_it_has_caught_up(
    engine: Engine, tmp_path: Path
) -> None:
    fill_catalog(engine, 20, np.random.default_rng(1), NOW_MS)
    make_generation(engine, tmp_path, "g1", seed=1, at_ms=NOW_MS)
    flip(engine, "g1", expected_flip=0, who="t", why="t", hold=False, at_ms=NOW_MS)
    elsewhere = tmp_path / "a disk that lacks the files"
    whole, blind = (
        GenerationWatch(engine, root, name, 1.0, lambda: NOW_MS, LoadedGeneration.open)
        for root, name in ((tmp_path, "whole"), (elsewhere, "blind"))
    )
    for _ in range(TAKEN_OUT_AFTER + 1):
        blind.look()
    blind.check_health()  # nobody has it: the generation's fault, and an old list beats none
    whole.look()
    for _ in range(TAKEN_OUT_AFTER):
        blind.check_health()
        blind.look()
    with pytest.raises(FellBehind, match=r"MANIFEST\.json"):
        blind.check_health()
    whole.check_health()
    with read_snapshot(engine) as conn:
        leases = {r.replica_id: r for r in fresh_replicas(conn, NOW_MS, 1)}
    assert (leases["whole"].ready, leases["whole"].refused) == (("g1",), {})
    assert leases["blind"].ready == ()
    assert "MANIFEST.json" in leases["blind"].refused["g1"]
    elsewhere.mkdir()
    (elsewhere / "generations").symlink_to(tmp_path / "generations")
    for _ in range(RETRY_REFUSED_AFTER):
        blind.look()
    blind.check_health()


def test_who_loads_a_large_generation_keeps_its_lease_and_goes_on_until_it_is_too_long(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.generation_watch.SHORTLY_S", 0.0)
    fill_catalog(engine, 20, np.random.default_rng(1), NOW_MS)
    for name in ("g1", "g2"):
        make_generation(engine, tmp_path, name, seed=1, at_ms=NOW_MS)
    flip(engine, "g1", expected_flip=0, who="t", why="t", hold=False, at_ms=NOW_MS)
    is_read, now_ms = Event(), NOW_MS

    def slowly(root: Path, generation_id: str, sealed_digest: str) -> LoadedGeneration:
        assert generation_id == "g1" or is_read.wait(60)
        return LoadedGeneration.open(root, generation_id, sealed_digest)

    slow, quick = (
        GenerationWatch(engine, tmp_path, name, 1.0, lambda: now_ms, opener)
        for name, opener in (("slow", slowly), ("quick", LoadedGeneration.open))
    )
    slow.look()
    stage(engine, "g2")
    slow.look(wait=False)
    now_ms += 60_000
    changed = catalog.put_items(engine, [item_put("new", "a new rook")], NOW_MS)
    slow.look(wait=False)
    assert slow.loaded["g1"].view.catalog_seq == changed[0].change_seq
    waited = wait_for_replicas(
        engine,
        "g2",
        deadline_s=0.0,
        lease_s=1.0,
        lease_now_ms=lambda: now_ms,
        sleep=lambda _: None,
        monotonic=iter((0.0, 1.0)).__next__,
    )
    assert (waited.ready, list(waited.behind), list(waited.lost)) == ([], ["slow"], ["slow"])

    quick.look()
    flip(engine, "g2", expected_flip=1, who="t", why="t", hold=False, at_ms=NOW_MS)
    for _ in range(LOADS_FOR - 2):
        slow.look(wait=False)
    slow.check_health()  # it loads
    for _ in range(TAKEN_OUT_AFTER):
        slow.look(wait=False)
    with pytest.raises(FellBehind):
        slow.check_health()
    is_read.set()
    slow.look()
    slow.check_health()
