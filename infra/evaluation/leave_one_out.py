"""The leave-one-out protocol: how well is the last thing a user did found among all items?

    run_leave_one_out("ml-100k", ["popularity", "moonlark"], seed=0)

gives {"protocol", "data", "seed", "models": {NAME: {"ndcg@10", "hr@10", "mrr", "coverage@10",
"fit_s"}}}. Validation chooses the epoch, the test is read once.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.datasets.fetch import STATE_DIR
from infra.evaluation.errors import UnknownModel
from infra.evaluation.interactions import load_interactions
from infra.evaluation.models import Model, Moonlark, Popularity, Say
from infra.evaluation.split import Split, leave_one_out
from ray_jobs.encoders.fit import TrainConfig, nightly
from ray_jobs.encoders.item_bert import BertEncoder, resolve_model
from ray_jobs.ranking.metrics import (
    coverage,
    hit_rate,
    mrr,
    ndcg_at_k,
    ranks_of_targets,
    top_k,
)

PROTOCOL = "leave-one-out"
MODELS = ("popularity", "moonlark")
CUTOFF = 10


def run_leave_one_out(
    data: str,
    models: list[str],
    seed: int,
    progress: Say | None = None,
    *,
    bert_model: str | None = None,
    state_dir: Path = STATE_DIR,
    recipe: Callable[[int], TrainConfig] = nightly,
) -> dict[str, Any]:
    """Fit each model on `data` and measure it; the JSON of `moonlark evaluate`.

    Args:
        data: "ml-100k", or a folder (see `infra.evaluation.interactions`).
        models: names among MODELS.
        seed: of the training run.
        progress: gets a line now and then.
        bert_model: a folder or a hub name; None for the one of `python -m infra.datasets`.
        state_dir: where that put things.
        recipe: makes the training configuration from the seed; the night's own by default.

    Raises:
        UnknownModel, NoSuchData, TooLittleData, DatasetUnreadable, ModelNotFound.
    """
    say: Say = progress if progress is not None else lambda line: None
    for name in models:
        if name not in MODELS:
            raise UnknownModel(name, MODELS)
    split = leave_one_out(load_interactions(data, state_dir), data)
    say(f"{data}: {len(split.offsets_U1) - 1} users, {len(split.texts_I)} items")
    table = {}
    for name in models:
        model = _make(name, recipe(seed), bert_model, state_dir)
        started = time.perf_counter()
        model.fit(split, lambda line, name=name: say(f"{name}: {line}"))  # type: ignore[misc]
        table[name] = measure(split, model.scores(split)) | {
            "fit_s": round(time.perf_counter() - started, 3)
        }
    return {"protocol": PROTOCOL, "data": data, "seed": seed, "models": table}


def measure(split: Split, scores_UI: NDArray[np.floating]) -> dict[str, float]:
    """The figures of one model over all users, what each had seen excluded."""
    seen_UI = split.seen()
    ranks_U = ranks_of_targets(scores_UI, split.test_items_U, seen_UI)
    lists_UK = top_k(scores_UI, CUTOFF, seen_UI)
    return {
        f"ndcg@{CUTOFF}": ndcg_at_k(ranks_U, CUTOFF),
        f"hr@{CUTOFF}": hit_rate(ranks_U, CUTOFF),
        "mrr": mrr(ranks_U),
        f"coverage@{CUTOFF}": coverage(lists_UK.tolist(), len(split.texts_I)),
    }


def _make(name: str, config: TrainConfig, bert_model: str | None, state_dir: Path) -> Model:
    if name == "popularity":
        return Popularity()
    default = str(state_dir / "models" / "all-MiniLM-L6-v2") if state_dir != STATE_DIR else None
    resolved = resolve_model(bert_model or default)
    return Moonlark(config, lambda texts: BertEncoder(resolved).encode(texts))
