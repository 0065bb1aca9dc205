"""Runbooks in short, on one real stack with a real Prometheus, and what it scraped by then."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.drills import runbooks
from infra.drills.figures import Options
from infra.drills.night_faults import night_of
from infra.drills.small_night import Words
from infra.drills.victims import wait_for
from infra.drills.ward import Ward, ward
from infra.prometheus import PROXY_METRICS
from infra.stack import prometheus
from ray_jobs.nightly.verify_live import verify_live
from serve.metric_names import METRICS, PREFIX
from tests.unit.test_grafana import BOARDS, expressions

pytestmark = pytest.mark.skipif(
    prometheus.binary() is None,
    reason="no prometheus on this machine (Debian: apt-get install prometheus)",
)
FEW = (
    "HoldSet",
    "GenerationOld",
    "EventsNotStored",
    "WriteBehindDropping",
    "LiveGenerationRefused",
)
"""The second ends with a whole night on the stack's own cluster. `make drills` tries all."""
NOT_WHEN_WELL = {"moonlark_write_behind_dropped_total"}
SCRAPED_S = 60.0
RATE_INTERVAL = "10m"
"""Whatever Grafana puts there: long enough for what the runbooks' faults left behind."""


@pytest.fixture(scope="module")
def here() -> Iterator[Ward]:
    with ward(seed=2) as made:
        yield made


@pytest.mark.timeout(1_500)
def test_each_alert_fires_is_named_and_ends_by_its_runbooks_own_commands(here: Ward) -> None:
    figures = runbooks.run_on(here, FEW, Options(seed=2, progress=False))
    assert figures.broken == []
    assert figures.passed


@pytest.mark.timeout(300)
def test_what_a_running_stack_tells_after_a_night_is_what_the_code_names(here: Ward) -> None:
    verify_live(night_of(here, here.live), Words())  # as each hour
    query = f"{PREFIX}moonlark_live_recall"
    wait_for("the look is told", lambda: bool(here.prometheus.values(query)), SCRAPED_S)
    scraped = {name for name in here.prometheus.names() if name.startswith(f"{PREFIX}moonlark_")}
    stems = {re.sub(r"_(bucket|sum|count)$", "", name).removeprefix(PREFIX) for name in scraped}
    assert stems <= METRICS.keys()
    assert METRICS.keys() - stems <= NOT_WHEN_WELL
    assert here.prometheus.names() >= PROXY_METRICS.keys()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_each_panel_of_a_dashboard_shows_something_after_a_night(here: Ward, path: Path) -> None:
    """By the panel's own queries, but for those of what has not happened here."""
    asked = [
        expression.replace("$__rate_interval", RATE_INTERVAL)
        for expression in expressions(path)
        if not any(name in expression for name in NOT_WHEN_WELL)
    ]
    assert [expression for expression in asked if not here.prometheus.values(expression)] == []
