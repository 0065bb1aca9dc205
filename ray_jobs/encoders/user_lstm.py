"""The user encoder: events -> LSTM -> pooling -> user vector, beside the items it must find.

    input   x_t = W_text bert(text) + b_text + residual[item] + kind + rating
    state   h_t, c_t = standard gates of torch.nn.LSTM, zero initial state
    user    u_t = normalise(W_out pool(h_1..h_t) + b_out)
    item    v   = normalise(W_text bert(text) + b_text + residual[item])
    logit   exp(logit_scale) * u . v

This module trains. `fold` is its twin in numpy and answers; tests hold the two within 1e-5. What
else was tried, and what it was worth, overrides its methods (`infra.evaluation.ablations`).

Shapes: B users, L positions, N texts, I items, T text_dim, D dim, H hidden.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ray_jobs.encoders.config import UserLSTMConfig

__all__ = ["EventBatch", "UserLSTM", "UserLSTMConfig"]

UNKNOWN_TEXT = -1
"""Text row of an event whose item had no text: it reads the learned unknown vector."""
NO_RESIDUAL = 0
"""Residual row of an item without one; row r + 1 is the r-th residual."""

INITIAL_LOGIT_SCALE = (
    2.5  # exp(2.5) = 12: cosine logits need about that before they learn their own
)


@dataclass(frozen=True, slots=True)
class EventBatch:
    """Effective events of B users, left-aligned, padded behind; all int64 of shape (B, L)."""

    texts_BL: Tensor
    """Row of the text table, or UNKNOWN_TEXT."""
    residuals_BL: Tensor
    """Residual row plus one, or NO_RESIDUAL."""
    kinds_BL: Tensor
    """Row of `config.kinds`."""
    ratings_BL: Tensor
    """`config.rating_bucket`."""

    def to(self, device: torch.device | str) -> "EventBatch":
        """The same there."""
        return EventBatch(
            self.texts_BL.to(device),
            self.residuals_BL.to(device),
            self.kinds_BL.to(device),
            self.ratings_BL.to(device),
        )


class UserLSTM(nn.Module):
    """The model of one generation. See the module's docstring for the formulas."""

    def __init__(self, config: UserLSTMConfig) -> None:
        super().__init__()
        self.config = config
        self.text = nn.Linear(config.text_dim, config.dim)
        self.residual = nn.Embedding(config.residual_count + 1, config.dim, padding_idx=NO_RESIDUAL)
        self.kind = nn.Embedding(len(config.kinds), config.dim)
        self.rating = nn.Embedding(config.rating_rows, config.dim)
        self.unknown = nn.Parameter(torch.zeros(config.dim))
        self.lstm = nn.LSTM(config.dim, config.hidden, batch_first=True)
        self.out = nn.Linear(config.hidden, config.dim)
        self.logit_scale = nn.Parameter(torch.tensor(INITIAL_LOGIT_SCALE))
        # Zero: an item starts as its text says, an event as its item; both learn their difference.
        for table in (self.residual, self.kind, self.rating):
            nn.init.zeros_(table.weight)

    def forward(self, text_vectors_NT: Tensor, batch: EventBatch) -> Tensor:
        """User vectors (B, L, D) after each event; rows behind a user's last event mean nothing."""
        return self.after(self.text(text_vectors_NT), batch)

    def after(self, projected_ND: Tensor, batch: EventBatch) -> Tensor:
        """The same from texts that are projected already: of a large catalog once for all."""
        inputs_BLD = self.inputs(projected_ND, self.residuals(), batch)
        return self.users(self.pool(self.states(inputs_BLD)))

    def residuals(self) -> Tensor:
        """(R + 1, D) what is added to the text of an item; row 0 for an item without."""
        return self.residual.weight

    def states(self, inputs_BLD: Tensor) -> Tensor:
        """h (B, L, H) after each event."""
        states_BLH: Tensor = self.lstm(inputs_BLD)[0]
        return states_BLH

    def inputs(self, projected_ND: Tensor, residual_RD: Tensor, batch: EventBatch) -> Tensor:
        """LSTM inputs (B, L, D) from projected texts and a residual table (row 0 = none)."""
        table_ND = torch.cat([projected_ND, self.unknown.unsqueeze(0)])
        rows_BL = batch.texts_BL.where(batch.texts_BL >= 0, len(projected_ND))
        inputs_BLD: Tensor = (
            functional.embedding(rows_BL, table_ND)
            + functional.embedding(batch.residuals_BL, residual_RD, padding_idx=NO_RESIDUAL)
            + self.kind(batch.kinds_BL)
            + self.rating(batch.ratings_BL)
        )
        return inputs_BLD

    def pool(self, states_BLH: Tensor) -> Tensor:
        """The pooled state (B, L, H) after each event, as `config.pooling` says."""
        if self.config.pooling == "last":
            return states_BLH
        if self.config.pooling == "mean":
            steps_L = torch.arange(1, states_BLH.shape[1] + 1, device=states_BLH.device)
            return states_BLH.cumsum(1) / steps_L.unsqueeze(-1)
        decay = self.config.ema_decay
        pooled_BH = torch.zeros_like(states_BLH[:, 0])
        pooled = []
        for state_BH in states_BLH.unbind(1):
            pooled_BH = decay * pooled_BH + (1.0 - decay) * state_BH
            pooled.append(pooled_BH)
        return torch.stack(pooled, dim=1)

    def users(self, pooled_BLH: Tensor) -> Tensor:
        """Unit user vectors from pooled states."""
        return functional.normalize(self.out(pooled_BLH), dim=-1)

    def items(self, text_vectors_IT: Tensor, residuals_I: Tensor) -> Tensor:
        """Unit item vectors (I, D); `residuals_I` as in EventBatch."""
        return self.items_from(self.text(text_vectors_IT), residuals_I, self.residuals())

    def items_from(self, projected_ID: Tensor, residuals_I: Tensor, residual_RD: Tensor) -> Tensor:
        """Unit item vectors (I, D) from projected texts and a residual table."""
        added_ID = functional.embedding(residuals_I, residual_RD, padding_idx=NO_RESIDUAL)
        return functional.normalize(projected_ID + added_ID, dim=-1)
