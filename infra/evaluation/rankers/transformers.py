"""SASRec and BERT4Rec of RecTools, by leave-one-out: trained in their own environment until
validation stops them, and asked for the lists of the epoch that it chooses.

A list ends after 100 items: what comes later has reciprocal rank 0.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from infra.evaluation.errors import NotHere
from infra.evaluation.log import Log
from infra.evaluation.rectools.curve import chosen, is_over
from infra.evaluation.rectools.peer import Model, Peer, PeerMissing, environment
from infra.evaluation.rectools.split import Listed
from infra.evaluation.task import Floats, Lesson, Question, Task

SETTINGS: Mapping[Model, Mapping[str, Any]] = {
    "SASRecModel": {"n_factors": 128, "batch_size": 32},
    "BERT4RecModel": {"n_factors": 128, "batch_size": 32},
}
"""Else RecTools' defaults. With its 256 factors and batches of 128 SASRec is slower and worse here
(`infra.bench.train`)."""

MOST_EPOCHS, PATIENCE = 120, 15


class Transformer:
    """One of SETTINGS. `folder`: where the environment is made."""

    def __init__(self, model: Model, seed: int, folder: Path) -> None:
        self._model, self._seed, self._folder = model, seed, folder
        self._validation: Task | None = None
        self._lists = Listed([])
        self.saved_fit_s = 0.0
        """CPU seconds of the other process."""
        self.choice = ""

    def tune(self, validation: Task) -> None:
        """By it the epoch is chosen."""
        self._validation = validation

    def fit(self, log: Log, lesson: Lesson) -> None:
        """Raises NotHere: RecTools cannot be had."""
        assert self._validation is not None, "tune comes first"
        try:
            with TemporaryDirectory() as split:
                self._train(replace(self._validation, validation=self._validation), Path(split))
        except PeerMissing as error:
            raise NotHere(self._model, str(error), error.hint) from error

    def _train(self, task: Task, split: Path) -> None:
        """`task`: the validation in the place of the test as well, which is not for us to see."""
        python, setting = environment(self._folder), SETTINGS[self._model]
        with Peer(python, task, setting, self._seed, split, self._model) as peer:
            while not is_over(peer.curve, MOST_EPOCHS, PATIENCE):
                self.saved_fit_s = peer.epoch().cpu_s
        best = chosen(peer.curve)
        told = ", ".join(f"{name} {value}" for name, value in setting.items())
        self.choice = f"epoch {best.epoch}; {told}"
        self._lists = Listed(peer.best_lists)

    def scores(self, log: Log, question: Question) -> Floats:
        """NaN for what is not among the 100 best."""
        return self._lists.scores(log, question)
