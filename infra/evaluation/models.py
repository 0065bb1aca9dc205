"""The models of a leave-one-out table: each is fitted on training events and scores all items.

Shapes: U users, E events, I items, D dim.
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from infra.evaluation.split import Split
from ray_jobs.encoders.fit import EpochReport, FitResult, TrainConfig, fit
from ray_jobs.encoders.fold import FoldEvent, fold_many, user_vector
from ray_jobs.encoders.train_data import from_columns
from ray_jobs.encoders.weights import encoder_of

Say = Callable[[str], None]
Embed = Callable[[list[str]], NDArray[np.float32]]


class Model(Protocol):
    """One row of the table."""

    def fit(self, split: Split, say: Say) -> None:
        """Learn from the training events; validation may only choose between epochs."""

    def scores(self, split: Split) -> NDArray[np.float32]:
        """(U, I), from all that each user did before the test."""


class Popularity:
    """How often an item occurs among the training events; the same for all users."""

    def __init__(self) -> None:
        self._counts_I = np.zeros(0, np.float32)

    def fit(self, split: Split, say: Say) -> None:
        trained = split.items_E[split.role_E() == "train"]
        self._counts_I = np.bincount(trained, minlength=len(split.texts_I)).astype(np.float32)

    def scores(self, split: Split) -> NDArray[np.float32]:
        return np.tile(self._counts_I, (len(split.offsets_U1) - 1, 1))


class Moonlark:
    """The twin of the night's model: same recipe, same texts, same numpy fold as in service."""

    def __init__(self, config: TrainConfig, embed: Embed) -> None:
        self._config, self._embed = config, embed
        self._bert_IT = np.zeros((0, 0), np.float32)
        self.fitted: FitResult | None = None

    def fit(self, split: Split, say: Say) -> None:
        say(f"embedding {len(split.texts_I)} texts")
        self._bert_IT = self._embed(list(split.texts_I))
        role_E = split.role_E()
        known = role_E != "test"
        users_E = np.repeat(np.arange(len(split.offsets_U1) - 1), np.diff(split.offsets_U1))
        items_E = split.items_E[known]
        data = from_columns(
            users_E=users_E[known],
            ordinals_E=items_E,
            texts_E=items_E,
            kinds_E=[kind for kind, use in zip(split.kinds_E, known, strict=True) if use],
            values_E=split.values_E[known],
            held_out_E=role_E[known] == "valid",
            bert_NT=self._bert_IT,
            item_ordinals_I=np.arange(len(split.texts_I)),
            item_texts_I=np.arange(len(split.texts_I)),
        )

        def on_epoch(report: EpochReport) -> None:
            say(
                f"epoch {report.epoch + 1} of {self._config.epochs}: loss {report.loss:.3f}, "
                f"validation NDCG@10 {report.valid_ndcg:.4f}, {report.seconds:.1f} s"
            )

        self.fitted = fit(self._config, data, on_epoch=on_epoch)

    def scores(self, split: Split) -> NDArray[np.float32]:
        if self.fitted is None:
            raise ValueError("fit comes before scores")
        encoder = encoder_of(self.fitted)
        items_ID = encoder.item_vectors(self._bert_IT, np.arange(len(split.texts_I)))
        histories = [self._history(split, user) for user in range(len(split.offsets_U1) - 1)]
        users_UD = np.zeros((len(histories), encoder.dim), np.float32)
        for user, session in enumerate(fold_many(encoder, histories)):
            vector_D = user_vector(encoder, session)
            if vector_D is not None:
                users_UD[user] = vector_D
        scores_UI: NDArray[np.float32] = users_UD @ items_ID.T
        return scores_UI

    def _history(self, split: Split, user: int) -> list[FoldEvent]:
        """All of it: the fold in service is unbounded, whatever the training windows were."""
        return [
            FoldEvent(
                user_seq=step,
                kind=split.kinds_E[event],
                ordinal=int(split.items_E[event]),
                vector=self._bert_IT[split.items_E[event]],
                value=None if np.isnan(value := float(split.values_E[event])) else value,
            )
            for step, event in enumerate(split.history(user), start=1)
        ]
