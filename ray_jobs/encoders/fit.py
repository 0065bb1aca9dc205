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
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from ray_jobs.encoders import fit_checkpoint
from ray_jobs.encoders.config import KINDS, UserLSTMConfig, rating_edges_of
from ray_jobs.encoders.fit_batches import (
    Columns,
    Progress,
    columns_of,
    epoch_batches,
    windows_of,
)
from ray_jobs.encoders.fit_checkpoint import Checkpoint, EpochReport, Standing
from ray_jobs.encoders.fit_loss import CatalogSoftmax
from ray_jobs.encoders.fit_optimizer import optimizer_of, schedule
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


@dataclass(frozen=True, slots=True, eq=False)
class FitResult:
    """The weights of the best epoch, and how it went.

    `residual_ordinals` (R,) ascending names the items of `model.residual` rows 1..R.
    """

    model: UserLSTM
    residual_ordinals: Ints
    history: tuple[EpochReport, ...]
    best_epoch: int
    resumed: int = 0
    """Epochs of the history that a run before had done, by its checkpoint."""


OnEpoch = Callable[[EpochReport], None]


def fit(
    config: TrainConfig,
    data: TrainData,
    *,
    progress: Progress | None = None,
    on_epoch: OnEpoch | None = None,
    checkpoint: Checkpoint | None = None,
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
        checkpoint: kept after each epoch, by rank 0; one that is there is gone on from, and every
            rank must see it. The weights are those of a run without a break.
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
            return run.train(progress, on_epoch, checkpoint)
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
        self._optimizer = optimizer_of(config, self._model)
        # Same batches on every rank, other dropout on each.
        self._rng = np.random.default_rng(config.seed)
        torch.manual_seed(config.seed + 1_000_003 * (self._rank + 1))

    def train(
        self, progress: Progress | None, on_epoch: OnEpoch | None, checkpoint: Checkpoint | None
    ) -> FitResult:
        config = self._config
        windows = windows_of(self._data, config.max_len, np.random.default_rng(config.seed))
        if not windows:
            raise ValueError("nothing to train on: no user has two training events")
        # A random phase may cut one window more or less: the schedule takes the first count.
        self._total = config.epochs * math.ceil(len(windows) / config.batch_size)
        self._done = 0
        standing = Standing([], 0, 0, 0, {})
        best_state = deepcopy(self._model.state_dict())
        kept = None if checkpoint is None else self._kept(checkpoint)
        if kept is not None:
            standing, best_state = kept
        resumed = len(standing.history)
        history = standing.history
        while len(history) < config.epochs and not _is_over(standing, config.patience):
            epoch = len(history)
            report = self._epoch(epoch, progress)
            history.append(report)
            best = history[standing.best_epoch].valid_ndcg
            if not report.valid_ndcg <= best:
                standing.better_at = epoch
            # Of equals the last: easy questions are all answered when little is learned yet.
            if not report.valid_ndcg < best:
                standing.best_epoch, best_state = epoch, deepcopy(self._model.state_dict())
            if checkpoint is not None:
                self._keep(checkpoint, standing, best_state)
            if on_epoch is not None:
                on_epoch(report)
        self._model.load_state_dict(best_state)
        self._model.cpu()
        borrow_untrained_rows(self._model, self._columns, self._data)
        self._model.eval()
        ordinals = self._data.item_ordinals_I[self._residual_rows_I > 0]
        return FitResult(self._model, ordinals, tuple(history), standing.best_epoch, resumed)

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
        factor = schedule(self._done / self._total, self._config.warmup)
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

    def _keep(
        self, checkpoint: Checkpoint, standing: Standing, best: dict[str, torch.Tensor]
    ) -> None:
        """Rank 0 writes; the others wait for its next step."""
        randoms = self._of_all_ranks(_random_state(self._device))
        if self._rank != 0:
            return
        standing.done, standing.batches_rng = self._done, dict(self._rng.bit_generator.state)
        tensors = fit_checkpoint.state_of(self._model, best, self._optimizer)
        tensors |= {f"random.{rank}": state for rank, state in enumerate(randoms)}
        checkpoint.keep(lambda path: fit_checkpoint.write(path, self._run_id, standing, tensors))

    def _kept(self, checkpoint: Checkpoint) -> tuple[Standing, dict[str, torch.Tensor]] | None:
        """Go on from where a run of the same data stood, if there was one."""
        path = checkpoint.latest()
        found = None if path is None else fit_checkpoint.read(path, self._run_id)
        if found is None:
            return None
        standing, tensors = found
        best = fit_checkpoint.put_back(tensors, self._model, self._optimizer)
        self._done = standing.done
        self._rng.bit_generator.state = standing.batches_rng
        _set_random_state(self._device, tensors[f"random.{self._rank}"])
        return standing, best

    @cached_property
    def _run_id(self) -> str:
        return fit_checkpoint.run_id(self._config, self._data, self._world_size, self._device)

    def _of_all_ranks(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        if self._world_size == 1:
            return [tensor]
        found: list[Any] = [None] * self._world_size
        torch.distributed.all_gather_object(found, tensor)
        return found

    def _agreed(self, score: float) -> float:
        """Rank 0's score on all ranks: a rank that stopped alone would leave the others waiting."""
        if self._world_size == 1:
            return score
        shared = torch.tensor([score], dtype=torch.float64, device=self._device)
        torch.distributed.broadcast(shared, src=0)
        return float(shared)


def _is_over(standing: Standing, patience: int) -> bool:
    """Whether so many epochs came after the last better one."""
    return len(standing.history) - 1 - standing.better_at >= patience


def _random_state(device: str) -> torch.Tensor:
    """What dropout draws from."""
    return torch.get_rng_state() if device == "cpu" else torch.cuda.get_rng_state(device)


def _set_random_state(device: str, state: torch.Tensor) -> None:
    if device == "cpu":
        torch.set_rng_state(state)
    else:
        torch.cuda.set_rng_state(state, device)
