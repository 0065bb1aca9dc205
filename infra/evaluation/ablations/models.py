"""User encoders and losses that differ from the shipped ones in one thing each.

Shapes: B users, L positions, I items, R residuals, D dim, H hidden, P positions with a target.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from ray_jobs.encoders.config import UserLSTMConfig
from ray_jobs.encoders.fit_batches import NO_TARGET, Barred
from ray_jobs.encoders.fit_loss import CatalogSoftmax
from ray_jobs.encoders.train_data import Ints
from ray_jobs.encoders.user_lstm import NO_RESIDUAL, EventBatch, UserLSTM

GATE_START = 0.5
"""sigmoid(log(1 + n) - 0.5): an item with 5 events starts at 0.78 of its residual."""


class SeedGates(UserLSTM):
    """The output gate reads the new cell instead of the event: o = sigmoid(W [h, c] + b), as the
    document has it that moonlark began with. Input and forget gates and the cell are torch's."""

    def __init__(self, config: UserLSTMConfig, counts_R: Ints) -> None:
        super().__init__(config)
        self.output_of_cell = nn.Linear(config.hidden, config.hidden, bias=False)

    def states(self, inputs_BLD: Tensor) -> Tensor:
        (from_input, from_hidden, input_bias, hidden_bias) = self.lstm.all_weights[0]
        bias_G = input_bias + hidden_bias
        gates_BLG = functional.linear(inputs_BLD, from_input, bias_G)
        # The output gate has the bias and h, and the cell in the place of the event.
        bias_H, from_hidden_HH = bias_G.chunk(4)[3], from_hidden.chunk(4)[3]
        h_BH = inputs_BLD.new_zeros(len(inputs_BLD), self.config.hidden)
        c_BH, states = h_BH, []
        for gates_BG in gates_BLG.unbind(1):
            i, f, g, _ = (gates_BG + h_BH @ from_hidden.T).chunk(4, dim=-1)
            c_BH = f.sigmoid() * c_BH + i.sigmoid() * g.tanh()
            o = h_BH @ from_hidden_HH.T + bias_H + self.output_of_cell(c_BH)
            h_BH = o.sigmoid() * c_BH.tanh()
            states.append(h_BH)
        return torch.stack(states, dim=1)


class CountGate(UserLSTM):
    """A residual counts by how often its item was met: times sigmoid(a log(1 + n) + b)."""

    def __init__(self, config: UserLSTMConfig, counts_R: Ints) -> None:
        super().__init__(config)
        logs_R1 = torch.from_numpy(counts_R).float().log1p().unsqueeze(-1)
        self.register_buffer("logs_R1", logs_R1)
        self.slope = nn.Parameter(torch.tensor(1.0))
        self.shift = nn.Parameter(torch.tensor(-GATE_START))

    def residuals(self) -> Tensor:
        gate_R1 = torch.sigmoid(self.slope * self.get_buffer("logs_R1") + self.shift)
        return self.residual.weight * gate_R1


class ResidualOnly(UserLSTM):
    """Items are their residual, and their text says nothing."""

    def __init__(self, config: UserLSTMConfig, counts_R: Ints) -> None:
        super().__init__(config)
        # Zero would be a saddle: with nothing else in an item, no residual could leave it.
        nn.init.normal_(self.residual.weight, std=config.dim**-0.5)
        with torch.no_grad():
            self.residual.weight[NO_RESIDUAL] = 0

    def inputs(self, projected_ND: Tensor, residual_RD: Tensor, batch: EventBatch) -> Tensor:
        return super().inputs(torch.zeros_like(projected_ND), residual_RD, batch)

    def items_from(self, projected_ID: Tensor, residuals_I: Tensor, residual_RD: Tensor) -> Tensor:
        return super().items_from(torch.zeros_like(projected_ID), residuals_I, residual_RD)


class DotProduct(UserLSTM):
    """Neither users nor items are scaled to length 1."""

    def __init__(self, config: UserLSTMConfig, counts_R: Ints) -> None:
        super().__init__(config)
        with torch.no_grad():
            self.logit_scale.zero_()

    def users(self, pooled_BLH: Tensor) -> Tensor:
        users_BLD: Tensor = self.out(pooled_BLH)
        return users_BLD

    def items_from(self, projected_ID: Tensor, residuals_I: Tensor, residual_RD: Tensor) -> Tensor:
        return projected_ID + functional.embedding(
            residuals_I, residual_RD, padding_idx=NO_RESIDUAL
        )


class SeenInSoftmax(CatalogSoftmax):
    """Items that the user had seen compete with the target, too."""

    def forward(
        self, batch: EventBatch, targets_BL: Tensor, asked_at_BL: Tensor, barred: Barred
    ) -> Tensor:
        none = torch.zeros(0, dtype=torch.int64)
        nothing = replace(
            barred,
            before_rows_S=none,
            before_items_S=none,
            within_BL=torch.full_like(barred.within_BL, NO_TARGET),
        )
        return super().forward(batch, targets_BL, asked_at_BL, nothing)


class SampledUncorrected(CatalogSoftmax):
    """A sampled softmax without the correction by each item's chance to be drawn (log Q)."""

    def _candidates(self, targets_P: Tensor) -> tuple[Tensor, Tensor | None]:
        return super()._candidates(targets_P)[0], None
