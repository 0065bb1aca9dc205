"""The bench of the fold runs, and both sides of what it compares do the same."""

from pathlib import Path

import numpy as np
import pytest
import torch

from infra.bench import fold as bench
from infra.bench.fold_data import ITEMS, write_night
from infra.bench.report import Report
from ray_jobs.encoders.fold import fold, user_vector
from ray_jobs.encoders.session import Session
from ray_jobs.nightly.fold import fold_range


@pytest.fixture(scope="module")
def report() -> Report:
    return bench.measure("small")


def test_each_part_is_measured(report: Report) -> None:
    one, together, night = report.tables
    us = {row[0]: float(row[1]) for row in (*one.rows, *together.rows)}
    assert {"fold(): one event", "torch nn.LSTM over 200 ready inputs"} < us.keys()
    assert all(value > 0 for value in us.values())
    assert float(night.rows[0][3]) > 0


def test_goals_are_those_of_the_issue(report: Report) -> None:
    goals = {ratio.name: ratio.goal for ratio in report.ratios if ratio.goal}
    assert goals["step, µs"] == "≤ 20"
    assert goals["cheaper than nn.LSTM over 200"] == "≥ 50"
    assert "cheaper than recomputing 200" not in goals  # of texts too: said, not asked for


def test_both_sides_of_the_comparison_give_the_same_user_vector() -> None:
    subject = bench._subject()
    folded = user_vector(
        subject.encoder, fold(subject.encoder, subject.session, subject.events[-1:])
    )
    with torch.inference_mode():
        texts_NT, batch = subject.reference.batch(subject.events)
        by_torch = bench.recompute(subject.reference.model, texts_NT, batch)[0].numpy()
    assert folded is not None
    np.testing.assert_allclose(folded, by_torch, atol=1e-5)


def test_a_made_night_is_folded_to_the_last_event_of_each_user(tmp_path: Path) -> None:
    workspace, events = write_night(tmp_path, 40, mean_events=6, seed=1)
    rows = [*fold_range(workspace, (1, 20)), *fold_range(workspace, (21, 40))]
    sessions = [Session.from_bytes(row.state) for row in rows]
    assert [row.user_key for row in rows] == list(range(1, 41))
    assert sum(session.user_seq for session in sessions) == events
    assert max(int(session.seen.max()) for session in sessions) < ITEMS
