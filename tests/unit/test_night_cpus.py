"""A night on a cluster without a whole CPU says so instead of waiting for ever."""

import logging

import pytest

from ray_jobs.nightly.step import check_cpus
from ray_jobs.nightly.workspace import NoCpus


def test_a_cluster_without_a_whole_cpu_is_refused() -> None:
    with pytest.raises(NoCpus, match=r"0\.5 CPUs"):
        check_cpus({"CPU": 0.5}, {"CPU": 0.5})


def test_a_busy_cluster_is_waited_for_but_not_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check_cpus({"CPU": 2.0}, {"CPU": 0.3})
    assert "taken" in caplog.text


def test_a_free_cluster_is_not_worth_a_word(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check_cpus({"CPU": 2.0}, {"CPU": 2.0})
    assert caplog.text == ""
