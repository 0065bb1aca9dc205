"""Where a training run stood after an epoch, so that one that was killed goes on there.

A safetensors file: weights, the best weights so far, the optimizer's moments and each rank's random
state; what is no tensor is JSON in its metadata. A run that goes on from one learns, to the last
bit, what it would have learned without a break.

    model.<name>, best.<name>   weights now, and those of the best epoch
    optimizer.<row>.<name>      AdamW's state of parameter <row>
    random.<rank>               torch's generator of that rank, uint8
"""

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ray_jobs.encoders.train_config import TrainConfig
from ray_jobs.encoders.train_data import TrainData

log = logging.getLogger("moonlark.night")

METADATA_KEY = "moonlark"
Tensors = dict[str, Tensor]


class Checkpoint(Protocol):
    """A place for one file, which appears whole."""

    def latest(self) -> Path | None:
        """The file, if there is one."""

    def keep(self, write: Callable[[Path], None]) -> None:
        """Replace it by what `write` writes."""


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


@dataclass(slots=True)
class Standing:
    """Where a run stands between two epochs."""

    history: list[EpochReport]
    best_epoch: int
    better_at: int
    """The last epoch that was better than all before it."""
    done: int
    """Batches."""
    batches_rng: dict[str, Any]
    """State of the generator that forms the batches, the same on every rank."""


def run_id(config: TrainConfig, data: TrainData, world_size: int, device: str) -> str:
    """Of what decides the weights: a checkpoint of another run is none."""
    told = (config, world_size, torch.device(device).type, torch.__version__, data.bert_NT.shape)
    digest = hashlib.sha256(repr(told).encode())
    for array in (
        *(data.item_ordinals_I, data.item_texts_I, data.offsets_U1, data.texts_E, data.items_E),
        *(data.kinds_E, data.values_E, data.held_out_E, data.moments_E),
    ):
        digest.update(array.tobytes())
    return digest.hexdigest()


def write(path: Path, run: str, standing: Standing, tensors: Tensors) -> None:
    """Write the file; tensors may be on any device."""
    told = json.dumps({"run": run, **asdict(standing)})
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(whole, path, {METADATA_KEY: told})


def read(path: Path, run: str) -> tuple[Standing, Tensors] | None:
    """What `write` wrote; None for another run's file and for one that cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            told = json.loads((file.metadata() or {})[METADATA_KEY])
            if told.pop("run") != run:
                log.warning("%s is of other data or settings: the training begins anew", path.name)
                return None
            told["history"] = [EpochReport(**report) for report in told["history"]]
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return Standing(**told), tensors
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        log.warning("%s cannot be read (%s): the training begins anew", path.name, error)
        return None


def state_of(
    model: nn.Module, best: dict[str, Tensor], optimizer: torch.optim.Optimizer
) -> Tensors:
    """What of a run is tensors, but for the random states."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in best.items()}
    for row, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{row}.{name}": tensor for name, tensor in state.items()}
    return tensors


def put_back(
    tensors: Tensors, model: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, Tensor]:
    """`state_of`, the other way round; returns the best weights."""
    model.load_state_dict(_below("model.", tensors))
    state: dict[int, Tensors] = {}
    for name, tensor in _below("optimizer.", tensors).items():
        row, _, key = name.partition(".")
        state.setdefault(int(row), {})[key] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return _below("best.", tensors)


def _below(prefix: str, tensors: Tensors) -> Tensors:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
