"""Two ranks that average their gradients learn what one rank learns alone: the same weights."""

import multiprocessing
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from ray_jobs.encoders.fit import FitResult, TrainData, fit, from_columns, tiny

# Without dropout nothing is drawn but the batches, which are the same on every rank.
CONFIG = replace(tiny(), epochs=3, input_dropout=0, state_dropout=0, residual_dropout=0)
ITEMS, USERS, LENGTH = 24, 64, 8


def walks() -> TrainData:
    """Each user's walk over the items is their own: half of the users do not stand for all."""
    rng = np.random.default_rng(0)
    items_UL = np.stack([rng.permutation(ITEMS)[:LENGTH] for _ in range(USERS)])
    return from_columns(
        users_E=np.repeat(np.arange(USERS), LENGTH),
        ordinals_E=1 + items_UL.ravel(),
        texts_E=items_UL.ravel(),
        kinds_E=["click"] * items_UL.size,
        values_E=np.full(items_UL.size, np.nan, np.float32),
        held_out_E=np.zeros(items_UL.size, bool),
        bert_NT=rng.normal(size=(ITEMS, 16)).astype(np.float32),
        item_ordinals_I=1 + np.arange(ITEMS),
        item_texts_I=np.arange(ITEMS),
    )


def learn(rank: int, meeting: Path) -> FitResult:
    """What a rank of two learns; they meet over a file."""
    torch.distributed.init_process_group(
        "gloo", init_method=meeting.as_uri(), rank=rank, world_size=2
    )
    try:
        return fit(CONFIG, walks(), rank=rank, world_size=2, wrap=DistributedDataParallel)
    finally:
        torch.distributed.destroy_process_group()


def weights(fitted: FitResult) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in fitted.model.state_dict().values()])


def test_two_ranks_learn_the_weights_that_one_learns(tmp_path: Path) -> None:
    other = multiprocessing.get_context("spawn").Process(
        target=learn, args=(1, tmp_path / "meeting"), daemon=True
    )
    other.start()
    together = learn(0, tmp_path / "meeting")
    other.join(60)
    assert other.exitcode == 0
    alone = fit(CONFIG, walks())
    start = fit(replace(CONFIG, epochs=1, lr=1e-9), walks())
    assert [epoch.windows for epoch in together.history] == [USERS // 2] * CONFIG.epochs
    learned = float((weights(alone) - weights(start)).norm())
    apart = float((weights(alone) - weights(together)).norm())
    assert apart < 0.01 * learned  # 4e-7 of it; without averaging, or with one share, 0.4
