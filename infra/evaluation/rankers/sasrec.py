"""SASRec (Kang and McAuley, ICDM 2018) with a full softmax, which makes it strong (Klenitskiy
and Vasilev, RecSys 2023): a causal transformer over item ids.

On torch's own layers: RecTools, which has one, does not install beside our pins (it asks for
attrs < 24 and numpy < 2). Learned at first until validation stops it; later lessons go on from the
weights that are there, for as many epochs as `again`, every `days`.

Shapes: B windows, L positions, I items, D dim.
"""

from copy import deepcopy

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from infra.evaluation.interactions import Ints
from infra.evaluation.log import Log
from infra.evaluation.rankers.every import Every
from infra.evaluation.task import Floats, Lesson, Question
from infra.evaluation.walk import CUTOFF

DIM, BLOCKS, HEADS, LENGTH = 128, 2, 2, 100
DROPOUT, LR, BATCH, MOST_EPOCHS, PATIENCE = 0.3, 1e-3, 64, 40, 4
VALIDATED = 1_000
"""Held-out events that are asked, at most."""


class SasRec:
    """Learned on `seed`."""

    def __init__(self, seed: int, days: int = 84, again: int = 2) -> None:
        self._seed, self._every, self._again = seed, Every(days), again
        self._log: Log | None = None

    def fit(self, log: Log, lesson: Lesson) -> None:
        if not self._every.is_due(log, lesson):
            return
        fresh, self._log = self._log is not log, log
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed)
            rng = np.random.default_rng(self._seed)
            if fresh:
                self._net = _Net(log.interactions.item_count)
                self._optimizer = torch.optim.AdamW(self._net.parameters(), lr=LR)
                self._until_it_stops(log, lesson, rng)
            else:
                for _ in range(self._again):
                    self._epoch(log, lesson.rows, rng)
        self._net.eval()

    def _until_it_stops(self, log: Log, lesson: Lesson, rng: np.random.Generator) -> None:
        rows = np.setdiff1d(lesson.rows, lesson.held_out)
        best, best_state, worse = -1.0, self._net.state_dict(), 0
        for _ in range(MOST_EPOCHS):
            self._epoch(log, rows, rng)
            figure = self._validated(log, lesson.held_out)
            if figure > best:
                best, best_state, worse = figure, deepcopy(self._net.state_dict()), 0
            else:
                worse += 1
                if worse == PATIENCE:
                    break
        self._net.load_state_dict(best_state)

    def _epoch(self, log: Log, rows: Ints, rng: np.random.Generator) -> None:
        self._net.train()
        windows = _windows(log, rows, rng)
        for first in range(0, len(windows), BATCH):
            items_BL = _padded(windows[first : first + BATCH])
            states_BLD = self._net(items_BL[:, :-1])
            asked_BL = items_BL[:, 1:] > 0
            logits = states_BLD[asked_BL] @ self._net.items.weight[1:].T
            loss = functional.cross_entropy(logits, items_BL[:, 1:][asked_BL] - 1)
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()

    def _validated(self, log: Log, held_out: Ints) -> float:
        """NDCG@10 of held-out events, what was seen before left out."""
        self._net.eval()
        events = log.interactions
        gains = []
        for row in held_out[:: max(1, len(held_out) // VALIDATED)].tolist():
            history = log.history(int(events.users_E[row]), row)
            if not len(history):
                continue
            scores_I = self._asked(events.items_E[history])
            scores_I[events.items_E[history]] = -np.inf
            rank = int(np.count_nonzero(scores_I > scores_I[events.items_E[row]]))
            gains.append(1 / np.log2(rank + 2) if rank < CUTOFF else 0.0)
        return float(np.mean(gains)) if gains else 0.0

    def scores(self, log: Log, question: Question) -> Floats:
        if not len(question.history):
            return np.zeros(log.interactions.item_count, np.float32)
        return self._asked(log.interactions.items_E[question.history])

    @torch.inference_mode()
    def _asked(self, items: Ints) -> Floats:
        state_D = self._net(torch.from_numpy(items[None, -LENGTH:] + 1))[0, -1]
        scores_I: Floats = (self._net.items.weight[1:] @ state_D).numpy()
        return scores_I


class _Net(nn.Module):
    """Item i has row i + 1; row 0 pads. Positions count from the start of the window."""

    def __init__(self, items: int) -> None:
        super().__init__()
        self.items = nn.Embedding(items + 1, DIM, padding_idx=0)
        self.places = nn.Embedding(LENGTH, DIM)
        nn.init.normal_(self.items.weight, std=0.02)
        nn.init.normal_(self.places.weight, std=0.02)
        layer = nn.TransformerEncoderLayer(
            DIM, HEADS, 2 * DIM, DROPOUT, "gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, BLOCKS, nn.LayerNorm(DIM), False)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, items_BL: Tensor) -> Tensor:
        """(B, L, D), after each position; causal, so padding behind changes nothing."""
        length = items_BL.shape[1]
        inputs_BLD = self.dropout(self.items(items_BL) + self.places.weight[:length])
        mask_LL = nn.Transformer.generate_square_subsequent_mask(length)
        states_BLD: Tensor = self.blocks(inputs_BLD, mask_LL, is_causal=True)
        return states_BLD


def _windows(log: Log, rows: Ints, rng: np.random.Generator) -> list[Ints]:
    """Items of each user, cut at a random phase into pieces of at most LENGTH + 1, shuffled."""
    events = log.interactions
    order = rows[np.argsort(events.users_E[rows], kind="stable")]
    users = events.users_E[order]
    windows = []
    for of_user in np.split(order, np.flatnonzero(np.diff(users)) + 1):
        end = len(of_user) - (int(rng.integers(LENGTH)) if len(of_user) > LENGTH + 1 else 0)
        cuts = [*range(end, 1, -LENGTH)]
        pieces = [of_user[max(0, cut - LENGTH - 1) : cut] for cut in cuts]
        if end < len(of_user):
            pieces.append(of_user[end - 1 :])
        windows += [events.items_E[piece] for piece in pieces if len(piece) > 1]
    # Alike in length within a batch, batches in random order.
    lengths = np.array([len(window) * (1 + 0.1 * rng.random()) for window in windows])
    by_length = np.argsort(lengths, kind="stable")
    batches = [by_length[first : first + BATCH] for first in range(0, len(windows), BATCH)]
    rng.shuffle(batches)
    full = [batch for batch in batches if len(batch) == BATCH]
    rest = [batch for batch in batches if len(batch) < BATCH]
    return [windows[row] for batch in (*full, *rest) for row in batch]


def _padded(windows: list[Ints]) -> Tensor:
    rows = np.zeros((len(windows), max(len(window) for window in windows)), np.int64)
    for row, window in enumerate(windows):
        rows[row, : len(window)] = window + 1
    return torch.from_numpy(rows)
