"""NDCG@10 by training time, and how long a training took to a figure.

Seconds are of training alone, from its start to the end of the epoch.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Clock = Literal["wall", "cpu"]


@dataclass(frozen=True)
class Point:
    """After an epoch (from 1)."""

    epoch: int
    wall_s: float
    cpu_s: float
    validation: float
    test: float

    def seconds(self, clock: Clock) -> float:
        """By one of the two clocks."""
        return self.wall_s if clock == "wall" else self.cpu_s


Curve = Sequence[Point]


@dataclass
class Stopwatch:
    """Adds up the wall and CPU seconds of this process between `start` and `stop`."""

    wall_s: float = 0.0
    cpu_s: float = 0.0
    _since: tuple[float, float] | None = field(default=None, repr=False)

    def start(self) -> None:
        assert self._since is None, "it runs already"
        self._since = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        assert self._since is not None, "it was not started"
        self.wall_s += time.perf_counter() - self._since[0]
        self.cpu_s += time.process_time() - self._since[1]
        self._since = None


def chosen(curve: Curve) -> Point:
    """The epoch that validation chooses: the first of the best.

    Raises:
        ValueError: no epoch.
    """
    if not curve:
        raise ValueError("no epoch was trained")
    return max(curve, key=lambda point: (point.validation, -point.epoch))


def first_reaching(curve: Curve, target: float) -> Point | None:
    """The first epoch whose test figure is at least `target`; None where none is."""
    return next((point for point in curve if point.test >= target), None)


def times_faster(ours: Curve, theirs: Curve, target: float, clock: Clock) -> float | None:
    """Their seconds to `target` by ours; None where one of the two does not reach it."""
    mine, other = first_reaching(ours, target), first_reaching(theirs, target)
    if mine is None or other is None:
        return None
    return other.seconds(clock) / mine.seconds(clock)


def is_over(curve: Curve, most: int, patience: int) -> bool:
    """Whether training ends: `most` epochs, or `patience` since the best on validation."""
    if not curve:
        return False
    return len(curve) >= most or curve[-1].epoch - chosen(curve).epoch >= patience
