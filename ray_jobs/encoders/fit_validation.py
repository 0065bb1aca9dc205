"""The validation figure that chooses the epoch: NDCG@10 on held-out events, all items ranked.

Shapes: B users, Q questions, L positions, I items, D dim.
"""

from collections import defaultdict

import numpy as np
import torch
from numpy.typing import NDArray

from ray_jobs.encoders.fit_batches import NO_TARGET, Columns
from ray_jobs.encoders.train_data import TrainData
from ray_jobs.encoders.user_lstm import UserLSTM

CUTOFF = 10
MAX_QUESTIONS = 4_000
"""Standard error 0.004 at NDCG 0.1; more would cost time in each epoch."""
MAX_HISTORY = 2_000
"""Events before a question that are read; the fold in service reads all."""
BATCH_USERS = 64
SCORED_AT_ONCE = 16
"""Questions: one reading of a large catalog for all of them."""


class Validation:
    """Questions drawn once; `ndcg` answers them with the model as it is.

    Args:
        data, columns: what is trained on; questions are its held-out targets with a history.
        residual_rows_I: residual row plus one of each catalog item.
        seed: draws the questions where there are more than MAX_QUESTIONS.
    """

    def __init__(
        self, data: TrainData, columns: Columns, residual_rows_I: NDArray[np.int64], seed: int
    ) -> None:
        self._data, self._columns = data, columns
        self._bert_NT = torch.from_numpy(data.bert_NT)
        self._item_texts_I = torch.from_numpy(data.item_texts_I)
        self._residual_rows_I = torch.from_numpy(residual_rows_I)
        asked = np.flatnonzero(data.held_out_E & (columns.targets_E != NO_TARGET))
        user_of = np.searchsorted(data.offsets_U1, asked, side="right") - 1
        with_history = data.moments_E[asked] > data.offsets_U1[user_of]
        asked, user_of = asked[with_history], user_of[with_history]
        if len(asked) > MAX_QUESTIONS:
            drawn = np.random.default_rng(seed).choice(len(asked), MAX_QUESTIONS, replace=False)
            asked, user_of = asked[drawn], user_of[drawn]
        self._questions: dict[int, list[int]] = defaultdict(list)
        for user, event in zip(user_of.tolist(), asked.tolist(), strict=True):
            self._questions[user].append(event)
        self.count = len(asked)

    @torch.inference_mode()
    def ndcg(self, model: UserLSTM) -> float:
        """Mean NDCG@10 over the questions, items seen before each excluded; NaN without any."""
        model.eval()
        device = model.unknown.device
        projected_ND = model.text(self._bert_NT.to(device))
        items_ID = model.items_from(
            projected_ND[self._item_texts_I.to(device)],
            self._residual_rows_I.to(device),
            model.residuals(),
        )
        spans_of = {user: self._span(user) for user in self._questions}
        by_length = sorted(spans_of, key=lambda user: spans_of[user][1] - spans_of[user][0])
        gains: list[float] = []
        for start in range(0, len(by_length), BATCH_USERS):
            users = by_length[start : start + BATCH_USERS]
            spans = [spans_of[user] for user in users]
            users_BLD = model.after(projected_ND, self._columns.batch(spans).to(device))
            asked = [
                (row, event) for row, user in enumerate(users) for event in self._questions[user]
            ]
            steps = [int(self._data.moments_E[event]) - 1 - spans[row][0] for row, event in asked]
            users_QD = users_BLD[[row for row, _ in asked], steps]
            scores = (
                scores_I
                for some_QD in torch.split(users_QD, SCORED_AT_ONCE)
                for scores_I in (some_QD @ items_ID.T).cpu().numpy()
            )
            for scores_I, (row, event) in zip(scores, asked, strict=True):
                gains.append(self._gain(scores_I, users[row], event))
        return float(np.mean(gains)) if gains else float("nan")

    def _span(self, user: int) -> tuple[int, int]:
        """Events read for a user: up to the last question, at most MAX_HISTORY before the first."""
        questions = self._questions[user]
        earliest = int(self._data.moments_E[min(questions)])
        first = max(int(self._data.offsets_U1[user]), earliest - MAX_HISTORY)
        return first, max(questions)

    def _gain(self, scores_I: NDArray[np.float32], user: int, event: int) -> float:
        """1 / log2(rank + 2) of the target, ties in catalog order, 0 below the cut."""
        target = int(self._columns.targets_E[event])
        seen = self._data.items_E[self._data.offsets_U1[user] : event]
        wanted = scores_I[target]
        better = scores_I > wanted
        better[:target] |= scores_I[:target] == wanted
        better[seen[seen >= 0]] = False
        rank = int(np.count_nonzero(better))
        return 1.0 / float(np.log2(rank + 2)) if rank < CUTOFF else 0.0
