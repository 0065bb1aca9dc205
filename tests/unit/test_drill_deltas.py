"""The drill `deltas` in short; and it can fail: a search that forgets a deletion is found out."""

from typing import Any

import numpy as np
import pytest

from infra.drills import delta_walk
from infra.drills.deltas import run
from infra.drills.figures import Options

OPS = 2_000


def test_random_changes_searches_switches_and_restarts_agree_with_brute_force() -> None:
    figures = run(Options(ops=OPS, seed=5, progress=False))
    assert figures.broken == []
    assert figures.passed, figures.document()
    assert figures.acked > OPS / 4
    assert figures.recall_gap is not None
    assert figures.recall_gap >= -0.002
    for phase in ("flat", "ivf"):
        assert figures.more[f"{phase}_restart_lists"] > 0
        assert figures.more[f"{phase}_recall@20"] > 0.98


def test_a_search_without_its_masks_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = delta_walk.search

    def forgetful(base: Any, delta: Any, query: Any, k: int, **more: Any) -> Any:
        more["excluded"] = np.zeros(0, np.int64)
        return shipped(base, delta, query, k, **more)

    monkeypatch.setattr(delta_walk, "search", forgetful)
    figures = run(Options(ops=300, seed=5, progress=False))
    assert not figures.passed
    assert figures.resurrected > 0
