"""SASRec and BERT4Rec of RecTools: trained in their own environment until held-out events stop
them, and asked for the lists of the epoch that these choose.

A list ends after 100 items: what comes later has reciprocal rank 0. Learned anew, from nothing,
every `days`; between two lessons histories go on, as for everybody.
"""

import weakref
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from infra.evaluation.errors import NotHere
from infra.evaluation.interactions import Ints
from infra.evaluation.log import Log
from infra.evaluation.rankers.every import Every
from infra.evaluation.rectools.curve import Point, chosen, is_over
from infra.evaluation.rectools.peer import Model, Peer, PeerMissing, environment
from infra.evaluation.rectools.split import ndcg_of_lists
from infra.evaluation.task import Floats, Lesson, Question

SETTINGS: Mapping[Model, Mapping[str, Any]] = {
    "SASRecModel": {"n_factors": 128, "batch_size": 32},
    "BERT4RecModel": {"n_factors": 128, "batch_size": 32},
}
"""Else RecTools' defaults. With its 256 factors and batches of 128 SASRec is slower and worse here
(`infra.bench.train`)."""

MOST_EPOCHS, PATIENCE = 120, 15
VALIDATED = 1_500
"""Held-out events that are asked, at most."""


class Transformer:
    """One of SETTINGS. `folder`: where the environment is made."""

    def __init__(self, model: Model, seed: int, folder: Path, days: int) -> None:
        self._model, self._seed, self._folder = model, seed, folder
        self._every = Every(days)
        self._lists: dict[tuple[int, int], list[int]] = {}
        self._here = ExitStack()
        weakref.finalize(self, self._here.close)
        self.saved_fit_s = 0.0
        """CPU seconds of the other process."""
        self.choice = ""

    def fit(self, log: Log, lesson: Lesson) -> None:
        """Raises NotHere: RecTools cannot be had."""
        if not self._every.is_due(log, lesson):
            return
        self._here.close()
        folder = Path(self._here.enter_context(TemporaryDirectory()))
        rows = np.setdiff1d(lesson.rows, lesson.held_out)
        try:
            python, setting = environment(self._folder), SETTINGS[self._model]
            self._peer = Peer(python, log, rows, setting, self._seed, folder, self._model)
            self._here.enter_context(self._peer)
            self._train(log, lesson.held_out)
        except PeerMissing as error:
            raise NotHere(self._model, str(error), error.hint) from error

    def _train(self, log: Log, held_out: Ints) -> None:
        events = log.interactions
        curve: list[Point] = []
        histories, answers = [], []
        for row in held_out[:: -(-len(held_out) // VALIDATED) or 1].tolist():
            history = log.history(int(events.users_E[row]), row)
            if len(history):
                histories.append(history)
                answers.append(int(events.items_E[row]))
        while not is_over(curve, MOST_EPOCHS, PATIENCE):
            told = self._peer.train()
            self.saved_fit_s += told.cpu_s
            figure = ndcg_of_lists(np.array(answers), self._peer.lists(histories))
            curve.append(Point(told.epoch, told.wall_s, told.cpu_s, figure, figure))
            if chosen(curve) is curve[-1]:
                self._peer.keep()
        self._peer.restore()
        setting = ", ".join(f"{name} {value}" for name, value in SETTINGS[self._model].items())
        self.choice = f"epoch {chosen(curve).epoch}; {setting}"

    def ahead(self, log: Log, questions: Sequence[Question]) -> None:
        """Lists for all of them at once."""
        asked = [question for question in questions if len(question.history)]
        lists = self._peer.lists([question.history for question in asked])
        keys = [_key(question) for question in asked]
        self._lists = dict(zip(keys, lists, strict=True))

    def scores(self, log: Log, question: Question) -> Floats:
        """NaN for what is not among the 100 best; all of it where there is no history."""
        scores_I = np.full(log.interactions.item_count, np.nan)
        items = self._lists.get(_key(question), [])
        scores_I[items] = np.arange(len(items), 0, -1)
        return scores_I


def _key(question: Question) -> tuple[int, int]:
    """What its list depends on: whose history, and how much of it."""
    return question.user, len(question.history)
