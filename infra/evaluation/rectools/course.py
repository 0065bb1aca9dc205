"""A peer's training on a leave-one-out split: after each epoch a point of its curve."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from infra.evaluation.rectools.curve import Point
from infra.evaluation.rectools.peer import Peer
from infra.evaluation.rectools.split import ndcg_of_lists
from infra.evaluation.task import Question, Task


@dataclass(frozen=True)
class Asked:
    """The questions of both parts."""

    validation: Task
    test: Task

    @classmethod
    def of(cls, task: Task) -> Self:
        """Of a leave-one-out task."""
        assert task.validation is not None, "leave-one-out has one"
        return cls(task.validation, replace(task, validation=None))


class Course(Peer):
    """Epoch by epoch, from the training events alone; the histories asked hold what came later."""

    def __init__(
        self, python: Path, task: Task, setting: Mapping[str, Any], seed: int, folder: Path
    ) -> None:
        asked = Asked.of(task)
        ((lesson, self._test),) = list(asked.test.steps)
        ((_, self._validation),) = list(asked.validation.steps)
        super().__init__(python, task.log, lesson.rows, setting, seed, folder)
        self.curve: list[Point] = []

    def epoch(self) -> Point:
        """The next point: seconds add up. Raises PeerMissing."""
        told = self.train()
        wall_s, cpu_s = (self.curve[-1].wall_s, self.curve[-1].cpu_s) if self.curve else (0.0, 0.0)
        point = Point(
            epoch=told.epoch,
            wall_s=wall_s + told.wall_s,
            cpu_s=cpu_s + told.cpu_s,
            validation=self._figure(self._validation),
            test=self._figure(self._test),
        )
        self.curve.append(point)
        return point

    def _figure(self, questions: list[Question]) -> float:
        answers = np.array([int(question.relevant[0]) for question in questions])
        return ndcg_of_lists(answers, self.lists([question.history for question in questions]))
