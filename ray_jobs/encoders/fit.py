"""How the weights are learned: softmax over the catalog, cosine logits, learned temperature.

Pure torch, no Ray. A Ray Train worker group calls `fit` in each worker with its rank; `wrap` is
then DistributedDataParallel (or `ray.train.torch.prepare_model`), which averages the gradients.

    result = fit(nightly(seed=0), data)
    save_weights(path, result)
"""

import math
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ray_jobs.encoders.config import KINDS, UserLSTMConfig, rating_edges_of
from ray_jobs.encoders.fit_batches import (
    Columns,
    Progress,
    columns_of,
    epoch_batches,
    windows_of,
)
from ray_jobs.encoders.fit_loss import CatalogSoftmax
from ray_jobs.encoders.fit_start import borrow_untrained_rows, whiten_projection
from ray_jobs.encoders.fit_validation import Validation
from ray_jobs.encoders.train_config import TrainConfig, nightly, tiny
from ray_jobs.encoders.train_data import Ints, TrainData, from_columns
from ray_jobs.encoders.user_lstm import UserLSTM

__all__ = [
    "EpochReport",
    "FitResult",
    "TrainConfig",
    "TrainData",
    "fit",
    "from_columns",
    "nightly",
    "tiny",
]

Wrap = Callable[[nn.Module], nn.Module]
MakeModel = Callable[[UserLSTMConfig, Ints], UserLSTM]
"""From the model's config and (R + 1,) how many training events each residual row has."""
MakeLoss = Callable[[UserLSTM, TrainConfig, TrainData, Ints], nn.Module]


def shipped_model(config: UserLSTMConfig, counts_R: Ints) -> UserLSTM:
    """What the night trains."""
    return UserLSTM(config)


@dataclass(frozen=True, slots=True)
class EpochReport:
    """One epoch. `valid_ndcg` is NaN where nothing was held out."""

    epoch: int
    loss: float
    valid_ndcg: float
    lr: float
    seconds: float
    windows: int
    """Windows that this rank stepped on."""


@dataclass(frozen=True, slots=True, eq=False)
class FitResult:
    """The weights of the best epoch, and how it went.

    `residual_ordinals` (R,) ascending names the items of `model.residual` rows 1..R.
    """

    model: UserLSTM
    residual_ordinals: Ints
    history: tuple[EpochReport, ...]
    best_epoch: int


OnEpoch = Callable[[EpochReport], None]


def fit(
    config: TrainConfig,
    data: TrainData,
    *,
    progress: Progress | None = None,
    on_epoch: OnEpoch | None = None,
    wrap: Wrap = lambda module: module,
    rank: int = 0,
    world_size: int = 1,
    device: str = "cpu",
    make_model: MakeModel = shipped_model,
    make_loss: MakeLoss = CatalogSoftmax,
) -> FitResult:
    """Train a user encoder; the same config, data and machine give the same weights.

    With held-out events the best epoch by validation NDCG@10 is kept, the last of equal ones, and
    training stops after `patience` epochs without a better one. Without them the last is kept.

    Args:
        progress: called after each batch with (done, of all).
        on_epoch: called after each epoch with its report, on each rank.
        wrap: makes the loss module average gradients over ranks; it is called once.
        rank, world_size: this worker's place. Every rank must get the same data: batches are
            formed alike on each and shared out window by window.
        device: where the model trains, a torch device; the result is on the CPU.
        make_model, make_loss: for experiments; what ships is the default, and alone can be saved.

    Raises:
        ValueError: no user has two training events, or the rank is out of range.
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} of {world_size}")
    threads = torch.get_num_threads()
    torch.set_num_threads(config.threads)
    try:
        with torch.random.fork_rng(devices=[] if device == "cpu" else [device]):
            place = _Place(rank, world_size, device)
            run = _Run(config, data, wrap, place, make_model, make_loss)
            return run.train(progress, on_epoch)
    finally:
        torch.set_num_threads(threads)


def model_config_of(config: TrainConfig, data: TrainData) -> tuple[UserLSTMConfig, Ints]:
    """The shape of the model for this data, and the residual row plus one of each item (0: none).

    Only training events count: held-out ones must not show through.
    """
    trained = data.items_E[~data.held_out_E & (data.items_E >= 0)]
    counts_I = np.bincount(trained, minlength=len(data.item_ordinals_I))
    has_residual_I = counts_I >= config.residual_min_events
    rows_I = np.where(has_residual_I, np.cumsum(has_residual_I), 0).astype(np.int64)
    rated = ~data.held_out_E & (data.kinds_E == KINDS.index("rating"))
    model_config = UserLSTMConfig(
        text_dim=data.bert_NT.shape[1],
        dim=config.dim,
        hidden=config.hidden,
        pooling=config.pooling,
        rating_edges=rating_edges_of(data.values_E[rated]),
        residual_min_events=config.residual_min_events,
        residual_count=int(has_residual_I.sum()),
        max_train_len=config.max_len,
    )
    return model_config, rows_I


@dataclass(frozen=True, slots=True)
class _Place:
    rank: int
    world_size: int
    device: str


class _Run:
    """One training run: what lives from its first batch to its last."""

    def __init__(
        self,
        config: TrainConfig,
        data: TrainData,
        wrap: Wrap,
        place: _Place,
        make_model: MakeModel,
        make_loss: MakeLoss,
    ) -> None:
        self._config, self._data = config, data
        self._rank, self._world_size, self._device = place.rank, place.world_size, place.device
        torch.manual_seed(config.seed)
        model_config, self._residual_rows_I = model_config_of(config, data)
        trained = self._residual_rows_I[data.items_E[~data.held_out_E & (data.items_E >= 0)]]
        self._model = make_model(
            model_config, np.bincount(trained, minlength=model_config.residual_count + 1)
        )
        whiten_projection(self._model, data.bert_NT[data.item_texts_I])
        self._model.to(self._device)  # before the loss and the optimizer, which hold its tensors
        self._columns: Columns = columns_of(data, model_config, self._residual_rows_I)
        self._valid = Validation(data, self._columns, self._residual_rows_I, config.seed)
        self._loss = wrap(make_loss(self._model, config, data, self._residual_rows_I))
        self._optimizer = _optimizer(config, self._model)
        # Same batches on every rank, other dropout on each.
        self._rng = np.random.default_rng(config.seed)
        torch.manual_seed(config.seed + 1_000_003 * (self._rank + 1))

    def train(self, progress: Progress | None, on_epoch: OnEpoch | None) -> FitResult:
        config = self._config
        windows = windows_of(self._data, config.max_len, np.random.default_rng(config.seed))
        if not windows:
            raise ValueError("nothing to train on: no user has two training events")
        # A random phase may cut one window more or less: the schedule takes the first count.
        self._total = config.epochs * math.ceil(len(windows) / config.batch_size)
        self._done = 0
        history: list[EpochReport] = []
        best_epoch, better_at, best_state = 0, 0, deepcopy(self._model.state_dict())
        for epoch in range(config.epochs):
            report = self._epoch(epoch, progress)
            history.append(report)
            if on_epoch is not None:
                on_epoch(report)
            best = history[best_epoch].valid_ndcg
            if not report.valid_ndcg <= best:
                better_at = epoch
            # Of equals the last: easy questions are all answered when little is learned yet.
            if not report.valid_ndcg < best:
                best_epoch, best_state = epoch, deepcopy(self._model.state_dict())
            if epoch - better_at >= config.patience:
                break
        self._model.load_state_dict(best_state)
        self._model.cpu()
        borrow_untrained_rows(self._model, self._columns, self._data)
        self._model.eval()
        ordinals = self._data.item_ordinals_I[self._residual_rows_I > 0]
        return FitResult(self._model, ordinals, tuple(history), best_epoch)

    def _epoch(self, epoch: int, progress: Progress | None) -> EpochReport:
        started = time.perf_counter()
        self._loss.train()
        losses = []
        stepped = 0
        windows = windows_of(self._data, self._config.max_len, self._rng)
        for batch in epoch_batches(windows, self._config.batch_size, self._rng):
            # A rank without a share repeats one: all ranks must take the same number of steps.
            share = batch[self._rank :: self._world_size] or batch[:1]
            losses.append(self._step(share))
            stepped += len(share)
            self._done += 1
            if progress is not None:
                progress(min(self._done, self._total), self._total)
        return EpochReport(
            epoch=epoch,
            loss=float(np.mean(losses)),
            valid_ndcg=self._agreed(self._valid.ndcg(self._model)),
            lr=float(self._optimizer.param_groups[0]["lr"]),
            seconds=time.perf_counter() - started,
            windows=stepped,
        )

    def _step(self, windows: list[tuple[int, int]]) -> float:
        factor = _schedule(self._done / self._total, self._config.warmup)
        for group in self._optimizer.param_groups:
            group["lr"] = self._config.lr * factor
        self._optimizer.zero_grad(set_to_none=True)
        columns = self._columns
        loss = self._loss(
            columns.batch(windows).to(self._device),
            columns.next_targets(windows).to(self._device),
            columns.asked_at(windows).to(self._device),
            columns.barred(windows).to(self._device),
        )
        loss.backward()
        nn.utils.clip_grad_norm_(self._model.parameters(), self._config.clip_norm)
        self._optimizer.step()
        return float(loss.detach())

    def _agreed(self, score: float) -> float:
        """Rank 0's score on all ranks: a rank that stopped alone would leave the others waiting."""
        if self._world_size == 1:
            return score
        shared = torch.tensor([score], dtype=torch.float64, device=self._device)
        torch.distributed.broadcast(shared, src=0)
        return float(shared)


def _schedule(done: float, warmup: float) -> float:
    """Linear warm-up, then half a cosine down to a thousandth; `done` of the run in 0..1."""
    if done < warmup:
        return max(done / warmup, 1e-3)
    rest = min(1.0, (done - warmup) / (1.0 - warmup))
    return max(0.5 * (1.0 + math.cos(math.pi * rest)), 1e-3)


def _optimizer(config: TrainConfig, model: UserLSTM) -> torch.optim.Optimizer:
    """AdamW: residuals decay most (they overfit first), biases and embeddings not at all."""
    decayed, residual, free = [], [], []
    for name, parameter in model.named_parameters():
        if name == "residual.weight":
            residual.append(parameter)
        elif name in {"text.weight", "out.weight"} or name.startswith("lstm.weight"):
            decayed.append(parameter)
        else:
            free.append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": residual, "weight_decay": config.residual_weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.98))
