"""Runbooks in short, on one real stack with a real Prometheus."""

import re
from collections.abc import Iterator

import pytest

from infra.drills import runbooks
from infra.drills.figures import Options
from infra.drills.ward import Ward, ward
from infra.stack import prometheus
from serve.metric_names import METRICS, PREFIX
from tests.unit.test_grafana import BOARDS, expressions

pytestmark = pytest.mark.skipif(
    prometheus.binary() is None,
    reason="no prometheus on this machine (Debian: apt-get install prometheus)",
)
FEW = ("EventsNotStored", "LiveGenerationRefused")


@pytest.fixture(scope="module")
def here() -> Iterator[Ward]:
    with ward(seed=2) as made:
        yield made


@pytest.mark.timeout(600)
def test_each_alert_fires_is_named_and_ends_by_its_runbooks_own_commands(here: Ward) -> None:
    figures = runbooks.run_on(here, FEW, Options(seed=2, progress=False))
    assert figures.broken == []
    assert figures.passed


@pytest.mark.timeout(120)
def test_what_a_running_stack_tells_is_what_the_code_names(here: Ward) -> None:
    """Nights of a drill leave no figures; all else is scraped under the names of the catalog."""
    scraped = {name for name in here.prometheus.names() if name.startswith(f"{PREFIX}moonlark_")}
    stems = {re.sub(r"_(bucket|sum|count)$", "", name).removeprefix(PREFIX) for name in scraped}
    assert stems <= METRICS.keys()
    of_a_night = {name for name in METRICS if "live_generation_" in name or "night_step" in name}
    never_here = {*of_a_night, "moonlark_day_ndcg", "moonlark_write_behind_dropped_total"}
    never_here |= {"moonlark_live_recall", "moonlark_night_check"}
    assert METRICS.keys() - never_here <= stems
    asked = {
        name
        for path in BOARDS
        for expression in expressions(path)
        for name in re.findall(r"\bray_\w+", expression)
    }
    unknown = {name for name in asked if name.removeprefix(PREFIX) not in never_here} - scraped
    assert unknown <= {f"{PREFIX}{name}_bucket" for name in never_here}
