"""A night without CPUs says so instead of waiting for ever."""

import pytest

from ray_jobs.nightly.step import CPU_POLL_S, CPU_WAIT_S, require_cpus
from ray_jobs.nightly.workspace import NoCpus


def test_a_cluster_that_is_too_small_is_refused_at_once() -> None:
    waited: list[float] = []
    with pytest.raises(NoCpus, match=r"0\.5 of the Ray cluster's 0\.5 CPUs .* needs 1"):
        require_cpus(1, lambda: (0.5, 0.5), sleep=waited.append)
    assert waited == []


def test_workers_that_do_not_fit_beside_the_day_are_refused_after_a_while() -> None:
    waited: list[float] = []
    with pytest.raises(NoCpus, match="MOONLARK_TRAIN_WORKERS"):
        require_cpus(2, lambda: (2.0, 1.7), sleep=waited.append)
    assert sum(waited) == pytest.approx(CPU_WAIT_S)


def test_cpus_that_come_free_are_taken() -> None:
    free = iter([0.3, 0.3, 1.7])
    waited: list[float] = []
    require_cpus(1, lambda: (2.0, next(free)), sleep=waited.append)
    assert waited == [CPU_POLL_S] * 2
