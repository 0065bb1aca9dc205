"""Fits a variant, and answers questions by torch instead of the fold: what a variant changes, the
fold does not know. For what ships the two give the same lists.

Shapes: I items, T text_dim, U users.
"""

from collections.abc import Callable, MutableMapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from infra.evaluation.ablations.variants import SHIPPED, Variant
from infra.evaluation.interactions import Ints
from infra.evaluation.log import Log
from infra.evaluation.rankers.every import Every
from infra.evaluation.rankers.moonlark import train_data
from infra.evaluation.task import Floats, Lesson, Question
from ray_jobs.encoders.fit import EpochReport, FitResult, TrainConfig, fit, model_config_of
from ray_jobs.encoders.fit_batches import Columns, columns_of
from ray_jobs.encoders.train_data import TrainData
from ray_jobs.encoders.user_lstm import NO_RESIDUAL

Say = Callable[[str], None]
Trained = MutableMapping[TrainConfig, FitResult]
"""What ships, by recipe: rows that only read otherwise need not train again."""


class TorchCosine:
    """The user vector alone, of one variant. `config`: the recipe that the variant changes; it is
    learned again after `days`."""

    def __init__(
        self,
        variant: Variant,
        config: TrainConfig,
        bert_IT: NDArray[np.float32],
        say: Say,
        trained: Trained,
        days: int = 0,
    ) -> None:
        self._variant, self._bert_IT, self._say, self._trained = variant, bert_IT, say, trained
        self._config, self._every = variant.recipe(config), Every(days)
        self.validation = float("nan")
        """NDCG@10 of the epoch that was kept."""

    def fit(self, log: Log, lesson: Lesson) -> None:
        if not self._every.is_due(log, lesson):
            return
        variant, config = self._variant, self._config
        learned = self._events(log, lesson)
        reads_otherwise = replace(variant, name=SHIPPED.name, about="", last=None) == SHIPPED
        result = self._trained.get(config) if reads_otherwise else None
        self._result: FitResult = result or fit(
            config,
            learned,
            on_epoch=self._told,
            make_model=variant.model,
            make_loss=variant.loss,
        )
        if reads_otherwise:
            self._trained[config] = self._result
        self.validation = self._result.history[self._result.best_epoch].valid_ndcg
        _, learned_rows = model_config_of(config, learned)
        residual_rows_I = np.full(len(self._bert_IT), NO_RESIDUAL, learned_rows.dtype)
        residual_rows_I[learned.item_ordinals_I] = learned_rows  # items to come have none
        everything = np.arange(len(log.interactions.users_E))
        known = self._events(log, Lesson(lesson.at_ms, everything, everything[:0]))
        self._columns: Columns = columns_of(
            known, self._result.model.config, residual_rows_I[known.item_ordinals_I]
        )
        users = np.unique(log.interactions.users_E)
        self._starts = dict(zip(users.tolist(), known.offsets_U1[:-1].tolist(), strict=True))
        self._bert_NT = torch.from_numpy(known.bert_NT)
        with torch.inference_mode():
            self._items_ID = self._result.model.items(
                self._bert_NT, torch.from_numpy(residual_rows_I)
            )

    def scores(self, log: Log, question: Question) -> Floats:
        start, length = self._starts[question.user], len(question.history)
        first = start if self._variant.last is None else start + max(0, length - self._variant.last)
        with torch.inference_mode():
            batch = self._columns.batch([(first, start + length)])
            vector_D = self._result.model(self._bert_NT, batch)[0, -1]
            scores_I: Floats = (self._items_ID @ vector_D).numpy()
        return scores_I

    def _events(self, log: Log, lesson: Lesson) -> TrainData:
        data = train_data(log, lesson, self._bert_IT)
        return self._variant.data(data, _times(log, lesson))

    def _told(self, report: EpochReport) -> None:
        self._say(f"epoch {report.epoch + 1}: {report.valid_ndcg:.4f}, {report.seconds:.1f} s")


def _times(log: Log, lesson: Lesson) -> Ints:
    """When each event of `train_data` happened, in its order."""
    events = log.interactions
    rows = np.union1d(lesson.rows, lesson.held_out)
    return events.at_ms_E[rows[np.argsort(events.users_E[rows], kind="stable")]]
