"""SASRec and BERT4Rec of RecTools, in their own environment: trained until held-out events
stop them, and asked for the lists of the epoch that these choose.

Where the held-out events belong to the lesson (a replay: its newest ones), the model is trained
again on all of the lesson, for as many epochs. Learned anew, from nothing, every `days`; between
two lessons histories go on, as for everybody. A list ends after 100 items: what comes later has
reciprocal rank 0.
"""

import weakref
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
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

SETTINGS: Mapping[Model, Sequence[Mapping[str, Any]]] = {
    "SASRecModel": [{"n_factors": 128, "batch_size": 32}],
    "BERT4RecModel": [{"n_factors": 128, "batch_size": 32}, {"n_factors": 256, "batch_size": 128}],
}
"""Else RecTools' defaults; of several the held-out events choose. SASRec with the default of 256
factors and batches of 128 is slower and worse here (`infra.bench.train`)."""

MOST_EPOCHS, PATIENCE = 120, 15
VALIDATED = 1_500
"""Held-out events that are asked, at most."""


@dataclass(frozen=True)
class _Trained:
    """A process at the end of its training; its best weights are kept there."""

    peer: Peer
    setting: Mapping[str, Any]
    best: Point


class Transformer:
    """One of SETTINGS. `folder`: where the environment is made."""

    def __init__(self, model: Model, seed: int, folder: Path, days: int) -> None:
        self._model, self._seed, self._folder = model, seed, folder
        self._every = Every(days)
        self._lists: dict[tuple[int, int], list[int]] = {}
        self._here = ExitStack()
        weakref.finalize(self, self._here.close)
        self.saved_fit_s = 0.0
        """CPU seconds of the epochs, in the other process; its lists are not counted."""
        self.choice = ""

    def fit(self, log: Log, lesson: Lesson) -> None:
        """Raises NotHere: RecTools cannot be had."""
        if not self._every.is_due(log, lesson):
            return
        self._here.close()
        rows = np.setdiff1d(lesson.rows, lesson.held_out)
        try:
            trained = [
                self._until_it_stops(log, rows, lesson.held_out, setting)
                for setting in SETTINGS[self._model]
            ]
            chosen_one = max(trained, key=lambda each: each.best.validation)
            for other in trained:
                if other is not chosen_one:
                    other.peer.end()
            self._peer = chosen_one.peer
            if len(rows) < len(lesson.rows):
                self._peer.end()
                self._peer = self._begin(log, lesson.rows, chosen_one.setting)
                for _ in range(chosen_one.best.epoch):
                    self.saved_fit_s += self._peer.train().cpu_s
            else:
                self._peer.restore()
        except PeerMissing as error:
            raise NotHere(self._model, str(error), error.hint) from error
        told = ", ".join(f"{name} {value}" for name, value in chosen_one.setting.items())
        self.choice = f"epoch {chosen_one.best.epoch}; {told}"

    def _begin(self, log: Log, rows: Ints, setting: Mapping[str, Any]) -> Peer:
        folder = Path(self._here.enter_context(TemporaryDirectory()))
        python = environment(self._folder)
        peer = Peer(python, log, rows, setting, self._seed, folder, self._model)
        return self._here.enter_context(peer)

    def _until_it_stops(
        self, log: Log, rows: Ints, held_out: Ints, setting: Mapping[str, Any]
    ) -> _Trained:
        peer = self._begin(log, rows, setting)
        events = log.interactions
        histories, answers = [], []
        for row in held_out[:: -(-len(held_out) // VALIDATED) or 1].tolist():
            history = log.history(int(events.users_E[row]), row)
            if len(history):
                histories.append(history)
                answers.append(int(events.items_E[row]))
        curve: list[Point] = []
        while not is_over(curve, MOST_EPOCHS, PATIENCE):
            told = peer.train()
            self.saved_fit_s += told.cpu_s
            figure = ndcg_of_lists(np.array(answers), peer.lists(histories))
            curve.append(Point(told.epoch, told.wall_s, told.cpu_s, figure, figure))
            if chosen(curve) is curve[-1]:
                peer.keep()
        return _Trained(peer, setting, chosen(curve))

    def ahead(self, log: Log, questions: Sequence[Question]) -> None:
        """Lists for all of them at once. Raises NotHere: the process ended."""
        asked = [question for question in questions if len(question.history)]
        try:
            lists = self._peer.lists([question.history for question in asked])
        except PeerMissing as error:
            raise NotHere(self._model, str(error), error.hint) from error
        keys = [_key(question) for question in asked]
        self._lists = dict(zip(keys, lists, strict=True))

    def scores(self, log: Log, question: Question) -> Floats:
        """NaN for what is not among the 100 best; all of it where there is no history.

        Raises KeyError: `ahead` was not told of the question.
        """
        scores_I = np.full(log.interactions.item_count, np.nan)
        items = self._lists[_key(question)] if len(question.history) else []
        scores_I[items] = np.arange(len(items), 0, -1)
        return scores_I


def _key(question: Question) -> tuple[int, int]:
    """What its list depends on: whose history, and how much of it."""
    return question.user, len(question.history)
