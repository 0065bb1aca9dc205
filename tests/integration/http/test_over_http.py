"""The lists that a replay measures are those that users get."""

from dataclasses import replace

import numpy as np
import pytest

from infra.evaluation.errors import NoReplay
from infra.evaluation.interactions import DAY_MS, Interactions, ReplayRule, from_columns
from infra.evaluation.over_http import ask_over_http
from infra.evaluation.rankers import hourly
from ray_jobs.encoders.fit import tiny

ITEMS, USERS, EVENTS = 60, 80, 4_000
FIRST_MS = 1_700_000_000_000


def busy() -> Interactions:
    """Fashions come and go, items are published all along, one after it was acted on."""
    rng = np.random.default_rng(0)
    at_ms = FIRST_MS + np.sort(rng.integers(0, 60 * DAY_MS, EVENTS)) // 1000 * 1000
    days = (at_ms - FIRST_MS) // DAY_MS
    items = np.minimum(rng.poisson(days * 0.8 + rng.choice([0, 10], EVENTS)), ITEMS - 1)
    published = FIRST_MS + (np.arange(ITEMS) - 12) * DAY_MS
    published[45] += 5 * DAY_MS
    return from_columns(
        "busy",
        [f"item {item}" for item in range(ITEMS)],
        rng.integers(0, USERS, EVENTS),
        items,
        at_ms,
        "click",
        published_ms_I=published,
        rule=ReplayRule(cut_ms=FIRST_MS // DAY_MS * DAY_MS + 40 * DAY_MS, validation_days=10),
    )


TEXTS = np.random.default_rng(1).normal(size=(ITEMS, 24)).astype(np.float32)
TEXTS /= np.linalg.norm(TEXTS, axis=1, keepdims=True)


def test_the_api_lists_what_the_replay_lists() -> None:
    found = ask_over_http(busy(), TEXTS, replace(tiny(), epochs=2), 120)
    assert (found.asked, found.differ) == (120, 0)
    assert found.equal > 100
    assert found.ndcg_http == pytest.approx(found.ndcg_replay, abs=0.02)
    assert found.ndcg_replay > 0.05


def test_a_difference_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a replay that counts by forty days what the API counts by the hour."""
    monkeypatch.setattr(hourly, "HOUR_MS", 40 * DAY_MS)
    found = ask_over_http(busy(), TEXTS, replace(tiny(), epochs=1), 40)
    assert found.differ > 5


def test_data_without_a_cut_is_refused() -> None:
    with pytest.raises(NoReplay):
        ask_over_http(replace(busy(), rule=None), TEXTS, tiny(), 1)
