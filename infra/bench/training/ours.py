"""Our training, stopped after each epoch: asked the questions, and others let run meanwhile."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infra.evaluation.interactions import Ints
from infra.evaluation.log import Log
from infra.evaluation.rankers.moonlark import Moonlark, train_data
from infra.evaluation.rectools.course import Asked
from infra.evaluation.rectools.curve import Point, Stopwatch
from infra.evaluation.task import Floats, Lesson, Question, Task
from infra.evaluation.walk import walk
from ray_jobs.encoders.config import UserLSTMConfig
from ray_jobs.encoders.fit import EpochReport, TrainConfig, fit, model_config_of, shipped_model
from ray_jobs.encoders.user_lstm import UserLSTM
from ray_jobs.encoders.weights import encoder_of


@dataclass(frozen=True)
class _AsItIs:
    """The model between two epochs; `encoder_of` copies it."""

    model: UserLSTM
    residual_ordinals: Ints


@dataclass(frozen=True)
class _Fitted:
    """`walk` fits before it asks: this was fitted already."""

    ranker: Moonlark

    def fit(self, log: Log, lesson: Lesson) -> None:
        """Nothing."""

    def scores(self, log: Log, question: Question) -> Floats:
        return self.ranker.scores(log, question)


def train(
    config: TrainConfig,
    task: Task,
    bert_IT: NDArray[np.float32],
    between: Callable[[Point], None] = lambda point: None,
) -> list[Point]:
    """Our curve, by the user vector alone. `between` is called after each epoch, off the clock.

    Validation events are not handed to `fit`, as little as to a peer: it would ask them in each
    epoch, on the clock. So every epoch is trained. All events are of one kind here, so that the
    rows that `fit` fills in at its end (kinds that never occurred) are never read.
    """
    ((lesson, _),) = list(task.steps)
    asked, clock = Asked.of(task), Stopwatch()
    clock.start()
    data = train_data(task.log, Lesson(lesson.at_ms, lesson.rows, lesson.held_out[:0]), bert_IT)
    _, residual_rows_I = model_config_of(config, data)
    ordinals = data.item_ordinals_I[residual_rows_I > 0]
    models: list[UserLSTM] = []
    curve: list[Point] = []

    def kept(model_config: UserLSTMConfig, counts_R: Ints) -> UserLSTM:
        models.append(shipped_model(model_config, counts_R))
        return models[0]

    def epoch_ended(report: EpochReport) -> None:
        clock.stop()
        encoder = encoder_of(_AsItIs(models[0], ordinals))
        validation, test = (
            float(walk(part, _Fitted(Moonlark.of(encoder, bert_IT))).ndcg_Q.mean())
            for part in (asked.validation, asked.test)
        )
        curve.append(Point(report.epoch + 1, clock.wall_s, clock.cpu_s, validation, test))
        between(curve[-1])
        clock.start()

    fit(config, data, on_epoch=epoch_ended, make_model=kept)
    return curve
