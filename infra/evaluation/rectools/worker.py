"""A transformer of RecTools, an epoch each time it is told to: run by the environment that has it.

    PYTHON worker.py events.csv MODEL '{"n_factors": 256, ...}' SEED

MODEL: SASRecModel or BERT4RecModel.

Nothing of moonlark is imported: the two cannot be installed together. `events.csv` has the columns
user, item, row, role (0 training, 1 validation, 2 test) in order of time. Each line on standard
input asks for one more epoch; it is answered by one line of JSON (`Epoch` of `peer` reads it) with
the seconds of the epoch alone and, for each user, the 100 best items before the validation event
and before the test event, events before it known and not listed. The first line, before any epoch,
has the versions. What libraries print goes to standard error.
"""

import json
import os
import sys
import time
import warnings
from typing import Any, TextIO

import pandas as pd
import torch
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.callbacks import LambdaCallback
from rectools import Columns
from rectools import __version__ as rectools_version
from rectools.dataset import Dataset
from rectools.models import BERT4RecModel, SASRecModel

MODELS = {model.__name__: model for model in (SASRecModel, BERT4RecModel)}
LISTED = 100
NO_END = 1_000_000
"""Epochs: whoever asks decides when it is enough."""


class Worker:
    """The model, and the stopwatch that runs only while it trains."""

    def __init__(
        self, events: pd.DataFrame, model: str, setting: dict[str, Any], told: TextIO
    ) -> None:
        self._told = told
        self._users = sorted(events["user"].unique().tolist())
        self._learned = _dataset(events[events["role"] == 0])
        self._before_test = _dataset(events[events["role"] <= 1])
        self._model = MODELS[model](**setting)
        self._model._trainer = Trainer(
            max_epochs=NO_END,
            min_epochs=NO_END,
            devices=1,
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            callbacks=[LambdaCallback(on_train_epoch_end=lambda *_: self._epoch_ended())],
        )
        self._epoch = 0
        self._wall_s = self._cpu_s = 0.0

    def run(self) -> None:
        """Until standard input ends. The first epoch's time has the set-up of the data in it."""
        if sys.stdin.readline():
            self._start()
            self._model.fit(self._learned)

    def _start(self) -> None:
        self._wall_s, self._cpu_s = time.perf_counter(), time.process_time()

    def _epoch_ended(self) -> None:
        cpu_s = time.process_time() - self._cpu_s
        wall_s = time.perf_counter() - self._wall_s
        self._epoch += 1
        self._model.is_fitted = True  # asked on the way
        answer = {
            "epoch": self._epoch,
            "wall_s": wall_s,
            "cpu_s": cpu_s,
            "validation": self._lists(self._learned),
            "test": self._lists(self._before_test),
        }
        self._model.lightning_model.train()
        say(self._told, answer)
        if not sys.stdin.readline():
            sys.exit(0)
        self._start()

    def _lists(self, known: Dataset) -> list[list[int]]:
        """By user in order, best first."""
        found = self._model.recommend(self._users, known, k=LISTED, filter_viewed=True)
        by_user = found.sort_values(Columns.Rank).groupby(Columns.User)[Columns.Item].apply(list)
        return [[int(item) for item in by_user.get(user, [])] for user in self._users]


def _dataset(events: pd.DataFrame) -> Dataset:
    """Ids and order alone: a second an event stands for its place in time."""
    return Dataset.construct(
        pd.DataFrame(
            {
                Columns.User: events["user"],
                Columns.Item: events["item"],
                Columns.Weight: 1.0,
                Columns.Datetime: pd.to_datetime(events["row"], unit="s"),
            }
        )
    )


def say(told: TextIO, what: dict[str, Any]) -> None:
    """One line."""
    told.write(json.dumps(what) + "\n")
    told.flush()


def main() -> None:
    """See the module."""
    told = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    events, model, setting, seed = sys.argv[1:]
    seed_everything(int(seed))
    worker = Worker(pd.read_csv(events), model, json.loads(setting), told)
    say(told, {"rectools": rectools_version, "torch": str(torch.__version__)})
    worker.run()


if __name__ == "__main__":
    main()
