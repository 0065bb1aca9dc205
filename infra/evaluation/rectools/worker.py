"""A transformer of RecTools, an epoch each time it is told to: run by the environment that has it.

    PYTHON worker.py events.csv MODEL '{"n_factors": 256, ...}' SEED

MODEL: SASRecModel or BERT4RecModel.

Nothing of moonlark is imported: the two cannot be installed together. Files have the columns user,
item, row in order of time; of `events.csv` it learns. The first line of standard output has the
versions. Then each line on standard input is a command, answered by one line of JSON:

    epoch         one more; its number and its seconds alone (the first to be given)
    lists FILE    for each user of FILE, in order, the 100 best items but those of the file
    keep          the weights as they are now
    restore       those that were kept

What libraries print goes to standard error.
"""

import json
import os
import sys
import time
import warnings
from copy import deepcopy
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

    def __init__(self, model: str, setting: dict[str, Any], told: TextIO) -> None:
        self._told = told
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
        self._kept: dict[str, Any] = {}

    def run(self, events: Dataset) -> None:
        """Until standard input ends. The first epoch's time has the set-up of the data in it."""
        if sys.stdin.readline().strip() == "epoch":
            self._start()
            self._model.fit(events)

    def _start(self) -> None:
        self._wall_s, self._cpu_s = time.perf_counter(), time.process_time()

    def _epoch_ended(self) -> None:
        cpu_s = time.process_time() - self._cpu_s
        wall_s = time.perf_counter() - self._wall_s
        self._epoch += 1
        self._model.is_fitted = True  # asked on the way
        say(self._told, {"epoch": self._epoch, "wall_s": wall_s, "cpu_s": cpu_s})
        while (command := sys.stdin.readline().strip()) != "epoch":
            if not command:
                sys.exit(0)
            say(self._told, self._do(command))
        self._model.lightning_model.train()
        self._start()

    def _do(self, command: str) -> Any:
        network = self._model.lightning_model
        if command == "keep":
            self._kept = deepcopy(network.state_dict())
            return "kept"
        if command == "restore":
            network.load_state_dict(self._kept)
            return "restored"
        return self._lists(pd.read_csv(command.removeprefix("lists ")))

    def _lists(self, known: pd.DataFrame) -> list[list[int]]:
        """By user in order, best first; none for who knows nothing that was learned."""
        is_learned = known["item"].isin(self._model.data_preparator.get_known_item_ids())
        users = known["user"][is_learned].unique().tolist()
        if not users:
            return [[] for _ in known["user"].unique()]
        found = self._model.recommend(users, dataset(known), k=LISTED, filter_viewed=True)
        by_user = found.sort_values(Columns.Rank).groupby(Columns.User)[Columns.Item].apply(list)
        everybody = sorted(known["user"].unique().tolist())
        return [[int(item) for item in by_user.get(user, [])] for user in everybody]


def dataset(events: pd.DataFrame) -> Dataset:
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


def say(told: TextIO, what: Any) -> None:
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
    worker = Worker(model, json.loads(setting), told)
    say(told, {"rectools": rectools_version, "torch": str(torch.__version__)})
    worker.run(dataset(pd.read_csv(events)))


if __name__ == "__main__":
    main()
