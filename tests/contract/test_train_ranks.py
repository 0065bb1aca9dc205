"""Two ranks that average their gradients learn what one rank learns alone: the same weights."""

import multiprocessing
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from ray_jobs.encoders.fit import (
    EpochReport,
    FitResult,
    OnEpoch,
    TrainConfig,
    TrainData,
    fit,
    from_columns,
    tiny,
)
from ray_jobs.nightly.kept import Kept, KeptFile
from ray_jobs.nightly.workspace import Workspace

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


class Killed(Exception):
    pass


def killed_after_two(report: EpochReport) -> None:
    if report.epoch == 1:
        raise Killed


def learn(rank: int, folder: Path, config: TrainConfig, is_killed: bool) -> FitResult:
    """What a rank of two learns; they meet over a file. `is_killed`: after two epochs of it both
    are, and meet again."""

    def once(
        name: str, on_epoch: OnEpoch | None = None, checkpoint: KeptFile | None = None
    ) -> FitResult:
        meeting = (folder / name).as_uri()
        torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
        try:
            return fit(
                config,
                walks(),
                rank=rank,
                world_size=2,
                wrap=DistributedDataParallel,
                on_epoch=on_epoch,
                checkpoint=checkpoint,
            )
        finally:
            torch.distributed.destroy_process_group()

    if not is_killed:
        return once("once")
    both_see = KeptFile(Kept(Workspace(folder, "g1"), "train"), "checkpoint.safetensors")
    with suppress(Killed):
        once("before", killed_after_two, both_see)
    return once("after", checkpoint=both_see)


def together(folder: Path, config: TrainConfig, is_killed: bool = False) -> FitResult:
    """What the first of two ranks has in the end."""
    folder.mkdir()
    other = multiprocessing.get_context("spawn").Process(
        target=learn, args=(1, folder, config, is_killed), daemon=True
    )
    other.start()
    learned = learn(0, folder, config, is_killed)
    other.join(60)
    assert other.exitcode == 0
    return learned


def weights(fitted: FitResult) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in fitted.model.state_dict().values()])


def test_two_ranks_learn_the_weights_that_one_learns(tmp_path: Path) -> None:
    both = together(tmp_path / "both", CONFIG)
    alone = fit(CONFIG, walks())
    start = fit(replace(CONFIG, epochs=1, lr=1e-9), walks())
    assert [epoch.windows for epoch in both.history] == [USERS // 2] * CONFIG.epochs
    learned = float((weights(alone) - weights(start)).norm())
    apart = float((weights(alone) - weights(both)).norm())
    assert apart < 0.01 * learned  # 4e-7 of it; without averaging, or with one share, 0.4


def test_two_ranks_that_were_killed_go_on_with_the_dropout_of_each(tmp_path: Path) -> None:
    config = replace(tiny(), epochs=3)
    whole = together(tmp_path / "whole", config)
    again = together(tmp_path / "again", config, is_killed=True)
    assert torch.equal(weights(whole), weights(again))
