"""What one GPU is worth: BERT, training and centroids on it beside the CPU, by the clock, in turn.

    python -m infra.bench.gpu     where torch sees a GPU; elsewhere it says so and measures nothing

The same code and texts on both; `MOONLARK_DEVICE=cuda` gives a night and a day the same. The CPU
has all its cores. Centroids are found on a GPU by faiss-gpu alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from infra.bench.report import Ratio, Report, Size, Table, run_bench
from infra.bench.rounds import Times, in_turn, ratio
from infra.bench.vectors import clustered
from infra.evaluation.interactions import Interactions
from infra.evaluation.leave_one_out import leave_one_out
from infra.evaluation.load import load_interactions
from infra.evaluation.rankers.moonlark import train_data
from ray_jobs.encoders.bert_settings import Device
from ray_jobs.encoders.fit import fit, nightly
from ray_jobs.encoders.item_bert import BertEncoder, resolve_model
from ray_jobs.nightly.canary import MIN_COSINE
from ray_jobs.shards.faiss_index import gpus
from ray_jobs.shards.placement import choose_family
from ray_jobs.shards.writer import train_coarse

SEED = 0
DIM = 128
VECTORS: dict[Size, int] = {"full": 1_000_000, "small": 25_000}
TEXTS: dict[Size, int] = {"full": 1_000, "small": 24}
ROUNDS: dict[Size, int] = {"full": 5, "small": 1}

Variants = Mapping[str, Callable[[], object]]


def measure(size: Size) -> Report:
    """MovieLens 100K, and made vectors."""
    return report(resolve_model(None), load_interactions("ml-100k"), size, "cuda")


def report(model: Path | str, films: Interactions, size: Size, device: Device) -> Report:
    """The figures of `device` beside the CPU."""
    texts = list(films.texts_I[: TEXTS[size]])
    here, there = BertEncoder(model), BertEncoder(model, device=device)
    half = BertEncoder(model, precision="bf16", device=device)
    vectors_NE = here.encode(texts)
    on_it = f"on {_name(device)}"
    bert: Variants = {
        "CPU, fp32": partial(here.encode, texts),
        f"fp32 {on_it}": partial(there.encode, texts),
        f"bf16 {on_it}": partial(half.encode, texts),
    }
    one: Variants = {
        "CPU, fp32": partial(here.encode, texts[:1]),
        f"fp32 {on_it}": partial(there.encode, texts[:1]),
    }
    ((lesson, _),) = list((task := leave_one_out(films)).steps)
    data = train_data(task.log, lesson, _as_wide(vectors_NE, films.item_count))
    recipe = replace(nightly(SEED), epochs=1)
    training: Variants = {
        "CPU": partial(fit, recipe, data),
        on_it: partial(fit, recipe, data, device=device),
    }
    parts = {
        f"BERT, {len(texts)} texts": bert,
        "BERT, one text": one,
        "training, an epoch": training,
    }
    notes = []
    if gpus():
        made_ND = clustered(np.random.default_rng(SEED), VECTORS[size], DIM)
        find = partial(train_coarse, made_ND, choose_family(len(made_ND)).nlist, SEED)
        parts[f"centroids of {len(made_ND):,} vectors"] = {"CPU": find, on_it: partial(find, True)}
    else:
        notes.append("Centroids were not found on a GPU: faiss-gpu is not installed, or sees none.")
    times = {name: in_turn(calls, ROUNDS[size], name) for name, calls in parts.items()}
    lost = {name: _lost(vectors_NE, call()) for name, call in bert.items()}
    return Report(
        bench="gpu",
        about=f"{Path(str(model)).name} on texts of {films.name}, training on its events and "
        f"k-means, each on the CPU and {on_it}, by the clock, {ROUNDS[size]} rounds in turn.",
        ratios=(
            *(claim for name, found in times.items() for claim in _ratios(name, found)),
            Ratio(
                name="BERT, 1 - cosine",
                value=max(lost.values()),
                of="1 - lowest cosine of a text to the CPU's fp32",
                at_most=round(1 - MIN_COSINE, 6),
            ),
        ),
        tables=(_table(times),),
        notes=tuple(notes),
    )


def _name(device: Device) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else "the CPU"


def _as_wide(vectors_NE: NDArray[np.float32], items: int) -> NDArray[np.float32]:
    """A vector for each of `items`: what a multiplication costs does not hang on what it is of."""
    return np.resize(vectors_NE, (items, vectors_NE.shape[1]))


def _lost(expected_NE: NDArray[np.float32], found: object) -> float:
    assert isinstance(found, np.ndarray)
    return float(1 - np.vecdot(expected_NE, found).min())


def _ratios(name: str, times: Mapping[str, Times]) -> list[Ratio]:
    first, *others = times
    return [
        Ratio(
            name=f"{name}: {other}",
            value=ratio(times[first], times[other]),
            of=f"seconds of {first} / of it",
        )
        for other in others
    ]


def _table(times: Mapping[str, Mapping[str, Times]]) -> Table:
    rows = tuple(
        (name, variant, f"{1_000 * found.wall_s:,.1f}")
        for name, variants in times.items()
        for variant, found in variants.items()
    )
    return Table(title="by the clock", columns=("", "where", "ms"), rows=rows)


if __name__ == "__main__":
    if torch.cuda.is_available():
        run_bench("gpu", measure)
    else:
        print("no GPU here (torch.cuda.is_available() is false): nothing was measured")
