"""Timings that can be compared: variants in turn, many rounds, medians.

    times = in_turn({"faiss": ..., "moonlark": ...}, rounds=30, label="search")
    times["moonlark"].wall_s / times["faiss"].wall_s

A shared machine's speed drifts by the minute; what runs A B A B drifts together.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm


@dataclass(frozen=True)
class Times:
    """Of one variant, a value a round (R,), in seconds: by the clock, and of this process's CPU."""

    walls_s_R: NDArray[np.float64]
    cpus_s_R: NDArray[np.float64]

    @property
    def wall_s(self) -> float:
        """The median."""
        return float(np.median(self.walls_s_R))

    @property
    def cpu_s(self) -> float:
        """The median."""
        return float(np.median(self.cpus_s_R))


def in_turn(
    variants: Mapping[str, Callable[[], object]], rounds: int, label: str, warm: int = 1
) -> dict[str, Times]:
    """Call each variant once a round, in order; the first `warm` rounds do not count."""
    walls: dict[str, list[float]] = {name: [] for name in variants}
    cpus: dict[str, list[float]] = {name: [] for name in variants}
    for number in tqdm(range(warm + rounds), desc=label, unit="round", leave=False):
        for name, call in variants.items():
            cpu, wall = time.process_time(), time.perf_counter()
            call()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            if number >= warm:
                walls[name].append(wall)
                cpus[name].append(cpu)
    return {name: Times(np.array(walls[name]), np.array(cpus[name])) for name in variants}


def ratio(over: Times, under: Times) -> float:
    """The median of the ratios round by round (by the clock): drift falls out of each."""
    return float(np.median(over.walls_s_R / under.walls_s_R))
