"""Step 3. The user encoder is trained on the log with Ray Train: one worker on a laptop, N by
setting.

Every worker reads the same work files and takes its share of the windows; gradients are averaged
by DistributedDataParallel. So all end with the same weights, which is checked; worker 0 writes
them, and after each epoch a checkpoint, from which the next try goes on.

Run: python -m ray_jobs.nightly.train --generation ID
"""

import dataclasses
import hashlib
import logging
import math
from typing import Any, cast

import numpy as np
import pyarrow.parquet as pq
import ray.train
import ray.train.torch
import torch.distributed
from torch import nn

from ray_jobs.encoders import fit as fitting
from ray_jobs.encoders.bert_settings import Device
from ray_jobs.encoders.train_data import TrainData, from_columns
from ray_jobs.encoders.weights import save_weights
from ray_jobs.nightly.histories import open_histories
from ray_jobs.nightly.holdout import held_out, validation
from ray_jobs.nightly.kept import Kept, KeptFile
from ray_jobs.nightly.settings import NightSettings
from ray_jobs.nightly.step import (
    NIGHT_GPU,
    Night,
    Report,
    cluster_cpus,
    device_of_cluster,
    main,
    require_cpus,
)
from ray_jobs.nightly.workspace import Workspace

log = logging.getLogger("moonlark.night")

WEIGHTS = "weights.safetensors"


def train(night: Night) -> Report:
    """Write weights.safetensors of the generation."""
    night.workspace.require_report("embed")
    settings = night.settings
    require_cpus(settings.train_workers, cluster_cpus)  # all at once: Ray Train waits for ever
    device = device_of_cluster(settings.device, settings.train_workers)
    trainer = ray.train.torch.TorchTrainer(
        cast(Any, _train_loop),  # typed as returning None; its value is the result's
        train_loop_config={
            "workspace": night.workspace,
            "settings": settings.model_copy(update={"device": device}),
        },
        scaling_config=scaling(settings.train_workers, device),
        run_config=ray.train.RunConfig(
            name="train",
            storage_path=str(night.workspace.work / "ray_train"),
            failure_config=ray.train.FailureConfig(max_failures=2),
        ),
    )
    # Not `result.metrics`: Ray keeps those of checkpoints only, and the weights are no checkpoint.
    report: Report = cast(Any, trainer.fit()).return_value
    return report


def scaling(workers: int, device: Device) -> ray.train.ScalingConfig:
    """A CPU a worker, and on GPUs most of one (`NIGHT_GPU`)."""
    if device == "cpu":
        return ray.train.ScalingConfig(num_workers=workers)
    return ray.train.ScalingConfig(
        num_workers=workers, use_gpu=True, resources_per_worker={"CPU": 1, "GPU": NIGHT_GPU}
    )


def training_data(workspace: Workspace, settings: NightSettings) -> TrainData:
    """The effective events before the holdout, the validation marked, and the catalog."""
    histories = open_histories(workspace)
    held_E = held_out(histories, settings)
    used_E = histories.effective_E & ~held_E
    items = pq.read_table(workspace.items, columns=["ordinal", "text_digest"])
    return from_columns(
        users_E=histories.user_keys_E[used_E],
        ordinals_E=histories.ordinals_E[used_E],
        texts_E=histories.rows_E[used_E],
        kinds_E=histories.kinds_E[used_E].tolist(),
        values_E=histories.values_E[used_E].astype(np.float32),
        held_out_E=validation(histories, held_E, settings)[used_E],
        bert_NT=histories.vectors(),
        item_ordinals_I=items["ordinal"].to_numpy(),
        at_ms_E=histories.moments_E[used_E],
        item_texts_I=histories.texts.rows_of(items["text_digest"].to_pylist()),
    )


def _train_loop(config: dict[str, Any]) -> Report:
    """What each worker of the group runs; rank 0's report is the step's."""
    workspace: Workspace = config["workspace"]
    settings: NightSettings = config["settings"]
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    make_recipe = fitting.tiny if settings.train_recipe == "tiny" else fitting.nightly
    recipe = make_recipe(settings.train_seed)
    fitted = fitting.fit(
        recipe,
        training_data(workspace, settings),
        on_epoch=lambda epoch: log.info("%s", epoch),
        checkpoint=KeptFile(Kept(workspace, "train"), "checkpoint.safetensors"),
        wrap=_distributed if world_size > 1 else _alone,
        rank=rank,
        world_size=world_size,
        device=str(ray.train.torch.get_device()) if settings.device == "cuda" else "cpu",
    )
    last = dataclasses.asdict(fitted.history[-1])
    metrics: Report = {
        k: v for k, v in last.items() if isinstance(v, int | float) and math.isfinite(v)
    }
    metrics["windows"] = _windows_of_all(fitted.model, last["windows"], world_size)
    if rank == 0:
        save_weights(workspace.directory / WEIGHTS, fitted)
    told = {"recipe": settings.train_recipe, "seed": settings.train_seed, "resumed": fitted.resumed}
    return {**metrics, **told, "workers": world_size, "device": settings.device}


def _windows_of_all(model: nn.Module, windows: int, world_size: int) -> list[int]:
    """Windows of the last epoch, a number a worker. Fails where workers trained apart."""
    if world_size == 1:
        return [windows]
    digest = hashlib.sha256()
    for tensor in model.state_dict().values():
        digest.update(tensor.cpu().numpy().tobytes())
    told: list[tuple[str, int]] = [("", 0)] * world_size
    torch.distributed.all_gather_object(told, (digest.hexdigest(), windows))
    assert len({weights for weights, _ in told}) == 1, "gradients were not averaged over workers"
    return [count for _, count in told]


def _distributed(model: nn.Module) -> nn.Module:
    wrapped: nn.Module = ray.train.torch.prepare_model(model)
    return wrapped


def _alone(model: nn.Module) -> nn.Module:
    return model


if __name__ == "__main__":
    main("train", train, needs_ray=True)
