"""Where weights start, and what becomes of rows that no event ever trained.

Shapes: N texts, T text_dim, D dim, K kinds, Q rating rows.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ray_jobs.encoders.config import EXCLUDING_KINDS
from ray_jobs.encoders.fit_batches import Columns
from ray_jobs.encoders.train_data import TrainData
from ray_jobs.encoders.user_lstm import UserLSTM

MAX_SAMPLE = 20_000
MIN_VARIANCE = 1e-8


@torch.no_grad()
def whiten_projection(model: UserLSTM, texts_NT: NDArray[np.float32]) -> None:
    """Start the text projection at the whitened principal axes of the catalog's texts.

    BERT vectors share a large mean and few strong axes (anisotropy: Ethayarajh 2019; whitening: Su
    et al. 2021), so random projections start with all items alike. Axes beyond what the texts span
    keep their random start.
    """
    step = math.ceil(len(texts_NT) / MAX_SAMPLE)
    sample = torch.from_numpy(texts_NT[:: max(1, step)]).double()
    if len(sample) < 2:
        return
    mean_T = sample.mean(0)
    values, vectors = torch.linalg.eigh((sample - mean_T).T @ (sample - mean_T) / len(sample))
    values, vectors = values.flip(0), vectors.flip(1)
    count = int((values[: model.config.dim] > MIN_VARIANCE).sum())
    axes_DT = (vectors[:, :count] / values[:count].sqrt()).T / math.sqrt(model.config.dim)
    model.text.weight[:count] = axes_DT.float()
    model.text.bias[:] = -(model.text.weight @ mean_T.float())


@torch.no_grad()
def borrow_untrained_rows(model: UserLSTM, columns: Columns, data: TrainData) -> None:
    """Give kinds and "no rating" that never occurred in training the place of what did.

    A catalog that was only ever rated must still take a click: a kind never trained acts as the
    average event, its missing rating as the average rating. A dislike or a hide acts as the lowest
    rating trained, where there is one. Untrained rows are 0, which is the place of no event.
    """
    trained_E = ~data.held_out_E
    kinds_K = _counts(columns.kinds_E[trained_E], model.kind.weight)
    rated_E = trained_E & (columns.ratings_E > 0)
    ratings_Q = _counts(columns.ratings_E[trained_E], model.rating.weight)
    if not bool(kinds_K.sum()):
        return
    mean_kind_D = kinds_K @ model.kind.weight / kinds_K.sum()
    mean_rating_D = torch.zeros_like(mean_kind_D)
    lowest_D = mean_rating_D
    if rated_E.any():
        only_rated_Q = ratings_Q.clone()
        only_rated_Q[0] = 0
        mean_rating_D = only_rated_Q @ model.rating.weight / only_rated_Q.sum()
        lowest_D = model.rating.weight[int(only_rated_Q.nonzero()[0])] - mean_rating_D
    for row, kind in enumerate(model.config.kinds):
        if not bool(kinds_K[row]):
            shift_D = lowest_D if kind in EXCLUDING_KINDS else torch.zeros_like(lowest_D)
            model.kind.weight[row] = mean_kind_D + shift_D
    model.rating.weight[ratings_Q == 0] = mean_rating_D


def _counts(rows_E: NDArray[np.int64], table: Tensor) -> Tensor:
    return torch.from_numpy(np.bincount(rows_E, minlength=len(table))).to(table.dtype)
