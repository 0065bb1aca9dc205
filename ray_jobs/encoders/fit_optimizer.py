"""AdamW and its learning rate."""

import math

import torch

from ray_jobs.encoders.train_config import TrainConfig
from ray_jobs.encoders.user_lstm import UserLSTM


def schedule(done: float, warmup: float) -> float:
    """Linear warm-up, then half a cosine down to a thousandth; `done` of the run in 0..1."""
    if done < warmup:
        return max(done / warmup, 1e-3)
    rest = min(1.0, (done - warmup) / (1.0 - warmup))
    return max(0.5 * (1.0 + math.cos(math.pi * rest)), 1e-3)


def optimizer_of(config: TrainConfig, model: UserLSTM) -> torch.optim.Optimizer:
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
