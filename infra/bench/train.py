"""Time to an NDCG@10 on MovieLens 100K: our training beside SASRec of RecTools.

    OMP_NUM_THREADS=1 python -m infra.bench.train     about an hour of CPU (estimated)

The same leave-one-out split (`infra/evaluation/leave_one_out.py`), the same questions scored by the
same code, one thread each. RecTools lives in `rectools/` under the state directory, made by pip the
first time; where it cannot be had there is no report. Epochs alternate: after each of ours the
peer's run, so that both see the same machine. Seconds are of training alone; answering the
questions, for either side, is off the clock.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from infra.bench.report import NO_PLOTS, PLOTS, Ratio, Report, Size, Table, run_bench
from infra.bench.training.ours import train
from infra.bench.training.plot import draw
from infra.cli.settings import CliSettings
from infra.evaluation.interactions import Interactions, from_columns
from infra.evaluation.leave_one_out import leave_one_out
from infra.evaluation.load import load_interactions
from infra.evaluation.rectools.course import Course
from infra.evaluation.rectools.curve import (
    Clock,
    Curve,
    Point,
    chosen,
    first_reaching,
    is_over,
    times_faster,
)
from infra.evaluation.rectools.peer import PeerMissing, environment
from infra.evaluation.text_vectors import TextVectors
from ray_jobs.encoders.config import KINDS
from ray_jobs.encoders.fit import TrainConfig, nightly, tiny
from ray_jobs.nightly.settings import NightSettings

SEED = 0
FASTER = 3.0
PATIENCE = 20
"""Epochs of a peer without a better validation figure: at 8 steps an epoch it stands for a while
before it rises."""
OURS = "moonlark"
MOST_ROWS = 12
"""Of a table of epochs, or a few more."""
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "SASRec, defaults": {},
    "SASRec, 128 factors, batches of 32": {"n_factors": 128, "batch_size": 32},
}
"""RecTools' defaults: softmax over the catalog, 2 blocks of 4 heads, 256 factors, the last 100
events, dropout 0.2, Adam at 0.001, batches of 128 users, which is 8 steps an epoch here; and one
that steps oftener and costs less."""


@dataclass(frozen=True)
class Plan:
    """How long each side trains."""

    recipe: TrainConfig
    most_epochs: int
    """Of a peer; ours trains all of its recipe."""
    block: int
    """Epochs of each peer after each of ours."""
    users: int | None
    """Only the first so many."""


PLANS: dict[Size, Plan] = {
    "full": Plan(nightly(SEED), most_epochs=120, block=3, users=None),
    "small": Plan(tiny(SEED), most_epochs=2, block=1, users=40),
}


@dataclass(frozen=True)
class Curves:
    """What was measured."""

    ours: Curve
    peers: Mapping[str, Curve]
    texts_cpu_s: float
    """Of BERT over the catalog's texts, which the night keeps and a first night pays."""
    versions: Mapping[str, str]
    """Of the peer's environment."""


def measure(size: Size) -> Report:
    """Train all, and compare.

    Raises:
        SystemExit: RecTools cannot be had, or failed.
    """
    try:
        return report(_curves(PLANS[size]), PLOTS if size == "full" else None)
    except PeerMissing as error:
        raise SystemExit(f"no bench without its peer: {error}") from error


def _curves(plan: Plan) -> Curves:
    torch.set_num_threads(1)
    state_dir = CliSettings().state_dir
    python = environment(state_dir / "rectools")
    interactions = load_interactions("ml-100k", state_dir)
    task = leave_one_out(first_users(interactions, plan.users))
    bert_IT, texts_cpu_s = _texts(task.log.interactions.texts_I, state_dir)
    bar = tqdm(desc="epochs", unit="epoch")
    with TemporaryDirectory() as folder, ExitStack() as stack:
        peers = {
            name: stack.enter_context(
                Course(python, task, setting, SEED, Path(folder) / str(number))
            )
            for number, (name, setting) in enumerate(SETTINGS.items())
        }

        def between(point: Point) -> None:
            _say(bar, OURS, point)
            _more(peers, plan, bar)

        ours = train(plan.recipe, task, bert_IT, between)
        while _more(peers, plan, bar):
            pass
    versions = next(iter(peers.values())).versions
    curves = {name: peer.curve for name, peer in peers.items()}
    return Curves(ours, curves, texts_cpu_s, versions)


def _more(peers: Mapping[str, Course], plan: Plan, bar: tqdm) -> int:
    """A block of each peer; gives how many epochs were trained."""
    trained = 0
    for name, peer in peers.items():
        for _ in range(plan.block):
            if not is_over(peer.curve, plan.most_epochs, PATIENCE):
                _say(bar, name, peer.epoch())
                trained += 1
    return trained


def _say(bar: tqdm, name: str, point: Point) -> None:
    bar.update()
    tqdm.write(
        f"{name}, epoch {point.epoch}: {point.cpu_s:.0f} CPU s, {point.wall_s:.0f} s, "
        f"NDCG@10 validation {point.validation:.4f}, test {point.test:.4f}"
    )


def first_users(interactions: Interactions, users: int | None) -> Interactions:
    """Events of the first users alone; all where `users` is None."""
    if users is None:
        return interactions
    kept_E = interactions.users_E < users
    return from_columns(
        interactions.name,
        interactions.texts_I,
        interactions.users_E[kept_E],
        interactions.items_E[kept_E],
        interactions.at_ms_E[kept_E],
        [KINDS[kind] for kind in interactions.kinds_E[kept_E].tolist()],
        interactions.values_E[kept_E],
    )


def _texts(texts_I: Sequence[str], state_dir: Path) -> tuple[NDArray[np.float32], float]:
    """BERT vectors, and the CPU seconds that they cost from nothing."""
    bert = NightSettings().bert_model or str(state_dir / "models" / "all-MiniLM-L6-v2")
    with TemporaryDirectory() as folder:
        vectors = TextVectors(Path(folder), bert, tqdm.write)
        started = time.process_time()
        bert_IT = vectors.of(texts_I)
        return bert_IT, time.process_time() - started


def report(curves: Curves, plots: Path | None) -> Report:
    """The figures: for each setting of the peer, the time to the figure that it reached.

    `plots`: the folder that takes the plot; None for none.
    """
    peers = curves.peers
    best = max(peers, key=lambda name: chosen(peers[name]).validation)
    told = ", ".join(f"{name} {number}" for name, number in curves.versions.items())
    drawn = None
    if plots is not None:
        drawn = draw(
            plots / "train.png",
            "MovieLens 100K, leave-one-out",
            {OURS: curves.ours, **peers},
            chosen(peers[best]).test,
        )
    ratios = [ratio for name in peers for ratio in _ratios(curves, name)]
    return Report(
        bench="train",
        about=(
            "Seconds of training to the test NDCG@10 that SASRec of RecTools has at the epoch that "
            "validation chooses; MovieLens 100K, leave-one-out, all items ranked, seed 0, one "
            "thread each, epochs of both sides in turn."
        ),
        ratios=tuple(ratios),
        tables=(
            _to_target(curves),
            *(_epochs(name, curve) for name, curve in {OURS: curves.ours, **peers}.items()),
        ),
        notes=(
            f"The peer's environment: {told}. Each peer trains until {PATIENCE} epochs bring no "
            "better validation figure; its other options are RecTools' defaults.",
            "A side reaches the figure with the first epoch whose test NDCG@10 is at least as "
            "high, by the same rule for both; a ratio of 0 means that moonlark does not.",
            "Validation events are trained on by neither. Ours is the user vector alone "
            "(`moonlark-cosine`), the nightly recipe.",
            f"Ours reads texts: BERT's vectors of the catalog cost {curves.texts_cpu_s:.0f} CPU s "
            "once, kept from night to night and not in the first ratios; SASRec has ids alone.",
            "Other work on the machine stretches wall seconds of both; CPU seconds are the judged "
            "clock.",
            *((NO_PLOTS,) if plots is not None and drawn is None else ()),
        ),
        plots=() if drawn is None else (drawn,),
    )


def _ratios(curves: Curves, name: str) -> list[Ratio]:
    """Both clocks, and with the reading of all texts on ours."""
    peer = curves.peers[name]
    target = chosen(peer).test
    ratios = []
    clocks: tuple[tuple[Clock, str], ...] = (("cpu", "CPU"), ("wall", "wall"))
    for clock, told in clocks:
        ratios.append(
            Ratio(
                name=f"faster than {name}, {told}",
                value=times_faster(curves.ours, peer, target, clock) or 0.0,
                of=f"{told} seconds to {target:.4f}: of it / of moonlark",
                at_least=FASTER,
            )
        )
    texts_first = [replace(point, cpu_s=point.cpu_s + curves.texts_cpu_s) for point in curves.ours]
    ratios.append(
        Ratio(
            name=f"faster than {name}, CPU, texts read first",
            value=times_faster(texts_first, peer, target, "cpu") or 0.0,
            of="the same, with BERT over the whole catalog in ours",
        )
    )
    return ratios


def _to_target(curves: Curves) -> Table:
    """Who reached what, when."""
    rows = []
    for name, peer in curves.peers.items():
        target = chosen(peer).test
        for side, curve in ((name, peer), (OURS, curves.ours)):
            found = first_reaching(curve, target)
            reached = ("", "not reached", "", "")
            if found is not None:
                seconds = f"{found.cpu_s:.1f}", f"{found.wall_s:.1f}"
                reached = (str(found.epoch), f"{found.test:.4f}", *seconds)
            rows.append((f"{target:.4f}", side, *reached))
    columns = ("NDCG@10 to reach", "", "epoch", "NDCG@10, test", "CPU s", "wall s")
    return Table(title="time to the figure", columns=columns, rows=tuple(rows))


def _epochs(name: str, curve: Curve) -> Table:
    """Every epoch of a short curve; of a long one some, the chosen and the last among them."""
    best = chosen(curve)
    step = -(-len(curve) // MOST_ROWS)
    rows = tuple(
        (
            f"{point.epoch}{' (chosen)' if point is best else ''}",
            f"{point.cpu_s:.1f}",
            f"{point.wall_s:.1f}",
            f"{point.validation:.4f}",
            f"{point.test:.4f}",
        )
        for point in curve
        if point.epoch % step == 0 or point in (best, curve[0], curve[-1])
    )
    columns = ("epoch", "CPU s", "wall s", "NDCG@10, validation", "NDCG@10, test")
    return Table(title=name, columns=columns, rows=rows)


if __name__ == "__main__":
    run_bench("train", measure)
