"""What is live is looked at every hour: rot, drift and nights that do not come are found."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sqlalchemy import Engine

from infra.drills.catalog import fill_catalog
from infra.drills.generation import make_generation
from infra.drills.small_night import Words
from ray_jobs.nightly.parity import ParityBroken
from ray_jobs.nightly.publish import stage_and_flip
from ray_jobs.nightly.settings import NightSettings
from ray_jobs.nightly.step import Night
from ray_jobs.nightly.verify_live import HOUR_MS, LiveBroken, verify_live
from ray_jobs.nightly.workspace import Workspace
from ray_jobs.shards.manifest import shard_name
from sql import generations
from sql.engine import read_snapshot
from sql.settings import StoreSettings
from tests.contract.store_builder import NOW_MS


@pytest.fixture
def live(engine: Engine, tmp_path: Path) -> Night:
    fill_catalog(engine, 60, np.random.default_rng(1), NOW_MS)
    make_generation(engine, tmp_path, "g1", seed=1, at_ms=NOW_MS)
    settings = NightSettings()
    stage_and_flip(
        engine, "g1", settings=settings, who="n", why="n", hold=False, now_ms=lambda: NOW_MS
    )
    workspace = Workspace(tmp_path, "g1")
    return Night(engine, StoreSettings(), settings, workspace, lambda: NOW_MS + HOUR_MS)


def test_what_is_as_it_should_be_passes_with_its_figures(live: Night) -> None:
    report = verify_live(live, Words())
    assert (report["generation"], report["recall"], report["age_hours"]) == ("g1", 1.0, 1.0)
    assert report["canary_texts"] > 0
    with read_snapshot(live.engine) as conn:
        kept = generations.read_parity(conn, "g1")
    assert kept is not None
    assert kept.at_ms == NOW_MS + HOUR_MS
    assert verified(live) == generations.Verified(1.0, None, NOW_MS + HOUR_MS)


def verified(live: Night) -> generations.Verified | None:
    with read_snapshot(live.engine) as conn:
        found = generations.get_generation(conn, "g1")
    assert found is not None
    return found.verified


def test_a_byte_that_rotted_is_found(live: Night) -> None:
    path = live.workspace.directory / shard_name(0)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(LiveBroken, match="g1 is live"):
        verify_live(live, Words())
    found = verified(live)
    assert found is not None
    assert found.recall is None
    assert found.at_ms == NOW_MS + HOUR_MS
    assert shard_name(0) in (found.broken or "")


def test_recall_that_fell_is_kept_with_its_figure(
    live: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray_jobs.nightly.verify_live.stored_recall", lambda *_, **__: 0.5)
    with pytest.raises(LiveBroken, match=r"recall@100 0\.5000, at least 0\.95"):
        verify_live(live, Words())
    found = verified(live)
    assert found is not None
    assert found.recall == 0.5
    assert found.broken is not None


class NoNumbers(Words):
    """BERT as a broken build of it computes."""

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.full((len(texts), self.dim), np.nan, np.float32)


class Another(Words):
    encoder_id = "another"


def test_a_text_that_is_no_number_any_more_breaks_parity_and_is_kept(live: Night) -> None:
    with pytest.raises(ParityBroken, match="cosine -1"):
        verify_live(live, NoNumbers())
    with read_snapshot(live.engine) as conn:
        kept = generations.read_parity(conn, "g1")
    assert kept is not None
    assert kept.canary_min_cosine == -1.0


def test_without_parity_nobody_looked(live: Night) -> None:
    """LiveBroken fires when that goes on for three hours."""
    with pytest.raises(ValueError, match="BERT here is another"):
        verify_live(live, Another())
    assert verified(live) is None


def test_a_broken_one_that_was_mended_is_well_again(live: Night) -> None:
    generations.keep_verified(live.engine, "g1", generations.Verified(None, "a bad byte", 1))
    verify_live(live, Words())
    found = verified(live)
    assert found is not None
    assert found.broken is None


def test_nights_that_do_not_come_are_found(live: Night) -> None:
    late = replace(live, now_ms=lambda: NOW_MS + 37 * HOUR_MS)
    with pytest.raises(LiveBroken, match=r"37\.0 h old, at most 36"):
        verify_live(late, Words())
    found = verified(live)
    assert found is not None
    assert found.broken is None, "GenerationOld tells of it"
