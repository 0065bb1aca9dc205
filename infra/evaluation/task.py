"""What every model is asked, whatever the protocol: learn from these events, then answer these.

A protocol (`leave_one_out`, `replay`) makes a Task; `walk` puts its questions to a Ranker. What a
ranker may see of the log is in the question, so that every model gets the same.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from infra.evaluation.interactions import Ints
from infra.evaluation.log import Log

Floats = NDArray[np.float32] | NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """What may be learned from at midnight, before the questions that follow."""

    at_ms: int
    rows: Ints
    """Events to learn from, in order."""
    held_out: Ints
    """Events by which a model may choose its epoch without training on them."""


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """A user asks for a list at a time."""

    user: int
    at_ms: int
    history: Ints
    """Rows of the user's events that the model may know, in order."""
    seen: Ints
    """Items not to be listed: those of all earlier events, whatever the variant."""
    known: int
    """Events before this row may be known, of all users."""
    night: int
    """Events before this row were known at the last midnight."""
    night_ms: int
    relevant: Ints
    """Items that the user took next."""
    candidates: NDArray[np.bool_] | None
    """(I,) what may be listed; None for all."""


@dataclass(frozen=True, slots=True)
class Task:
    """`steps`: a lesson to learn, and the questions until the next one; made on the way."""

    log: Log
    steps: "Steps"
    warm_I: NDArray[np.bool_]
    """Items with an event in the first lesson."""
    known_U: NDArray[np.bool_]
    """Users with an event in the first lesson."""
    validation: "Task | None"
    """The same questions on earlier events: for whoever chooses an option."""


class Steps(Protocol):
    """Can be walked again and again."""

    @property
    def count(self) -> int:
        """Questions in all."""

    def __iter__(self) -> Iterator[tuple[Lesson, list[Question]]]: ...


class Ranker(Protocol):
    """One row of the table."""

    def fit(self, log: Log, lesson: Lesson) -> None:
        """Learn; called again with a later lesson when a night comes."""

    def scores(self, log: Log, question: Question) -> Floats:
        """(I,) of all items, higher is better; NaN for an item that is not to be listed."""


class Tunable(Ranker, Protocol):
    """A ranker that chooses options; `tune` is called once, before the first `fit`."""

    def tune(self, validation: Task) -> None:
        """Choose by the questions of `validation`."""
