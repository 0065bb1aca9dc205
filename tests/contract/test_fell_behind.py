"""A replica that cannot load what the others answer from is taken out; a bad generation is not."""

from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine

from infra.drills.catalog import fill_catalog
from infra.drills.generation import make_generation
from serve.generation_watch import RETRY_REFUSED_AFTER, TAKEN_OUT_AFTER, FellBehind, GenerationWatch
from serve.loaded_generation import LoadedGeneration
from sql.engine import read_snapshot
from sql.generations import flip, fresh_replicas
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
