"""Does the gate let good nights pass, and none whose model is worse? On real logs, in ACCURACY.md.

    python -m infra.bench.gate_nights                  MovieLens 100K
    python -m infra.bench.gate_nights --data FOLDER    and FOLDER/ifdb, FOLDER/online_retail

Nights of the shipped steps and recipe, each as of a later moment of the log and with a seed of its
own, on a store that grows between them: each should be published. Then one more for each way in
which a model can be worse: each should be refused, and the last good one stay live.

Minutes of CPU a night: about an hour for all.

Shapes: I items, T text_dim.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from infra.bench.accuracy import PAGE, TITLES
from infra.bench.accuracy_page import GATE_TITLE, PACKAGES, TITLE, page_with, sections_of
from infra.bench.machine import machine, told, versions
from infra.cli.settings import CliSettings
from infra.drills.bad_generation import ENDS, Bad, spoiled, turn_weights, untrained
from infra.drills.local import LocalStore, local_store, quiet
from infra.drills.small_night import steps
from infra.evaluation.interactions import LONG_AGO_MS, Interactions
from infra.evaluation.load import load_interactions
from infra.evaluation.store_nights import (
    CatalogByDay,
    KnownTexts,
    in_order_of_puts,
    night_at,
    post_events,
    put_items,
)
from infra.evaluation.text_vectors import TextVectors
from ray_jobs.encoders.fit import fit, nightly
from ray_jobs.encoders.train_config import TrainConfig
from ray_jobs.encoders.weights import save_weights
from ray_jobs.nightly.settings import NightSettings
from ray_jobs.nightly.step import Night, Report, run_step
from ray_jobs.nightly.train import WEIGHTS, training_data
from ray_jobs.nightly.workspace import GateRefused
from ray_jobs.ranking.fusion import FEATURES
from ray_jobs.ranking.priors import FUSION_NAME, Priors
from sql import generations
from sql.engine import read_snapshot

FIRST_SHARE = 0.5
"""Of the log: what the first night sees."""


@dataclass(frozen=True)
class Log:
    """A data set, how many good nights it gets, and the recipe's epochs (a night takes as long)."""

    title: str
    data: str
    nights: int
    epochs: int


LOGS = (
    Log("MovieLens 100K", "ml-100k", 20, 12),
    Log("IFDB", "ifdb", 5, 12),
    Log("Online Retail", "online_retail", 3, 4),
)


@dataclass
class Found:
    """What came of a log's nights."""

    ndcg: list[float] = field(default_factory=list)
    """Of the lists of each night that passed, on its own holdout."""
    refused_good: list[str] = field(default_factory=list)
    """Why a good one was refused."""
    worse: dict[str, str] = field(default_factory=dict)
    """By the kind of worse model: why it was refused, or that it passed."""


def _learn_mixed_up(night: Night, report: Report) -> None:
    """A join that went wrong: each item's events are another's."""
    data = training_data(night.workspace, night.settings)
    other_I = np.random.default_rng(0).permutation(len(data.item_ordinals_I))
    mixed = replace(data, items_E=np.where(data.items_E < 0, -1, other_I[data.items_E]))
    recipe = replace(nightly(int(report["seed"])), epochs=int(report["epochs"]))
    save_weights(night.workspace.directory / WEIGHTS, fit(recipe, mixed))


def _only(feature: str) -> Callable[[Night, Report], None]:
    """Lists by one thing alone."""

    def spoil(night: Night, _: Report) -> None:
        priors = Priors.open(night.workspace.directory)
        assert priors is not None, "the log is large enough for fusion"
        weights = tuple(float(name == feature) for name in FEATURES)
        users = priors.fusion.lively.model_copy(update={"known": weights, "new": weights})
        fusion = priors.fusion.model_copy(update={"lively": users, "quiet": users})
        path = night.workspace.directory / FUSION_NAME
        path.write_text(fusion.model_dump_json(), encoding="utf-8")

    return spoil


WORSE = {
    "user encoder of random weights": Bad("train", untrained, "NDCG@10"),
    "user encoder that learned from mixed-up items": Bad("train", _learn_mixed_up, "NDCG@10"),
    "re-ranking turned round": Bad("fuse", turn_weights, "NDCG@10 of lists"),
    "lists by what was always popular": Bad("fuse", _only("activity_infd"), "NDCG@10 of lists"),
}
"""Each leaves every file whole: digests, counts and recall say nothing of it."""


def run(events: Interactions, bert_IT: NDArray[np.float32], log: Log) -> Found:
    """All nights of a log, one after the other."""
    shares = np.linspace(FIRST_SHARE, 1, log.nights)
    ends_ms = np.quantile(events.at_ms_E, shares).astype(np.int64)
    events, bert_IT, items = in_order_of_puts(events, bert_IT, int(ends_ms[0]))
    encoder, found = KnownTexts(bert_IT), Found()
    with local_store(items=0, seed=0) as store, quiet():
        grown = _Growing(store, events, items, encoder)
        for number, end_ms in enumerate(tqdm(ends_ms.tolist(), desc=log.title, unit="night")):
            grown.until(end_ms + 1)
            recipe = replace(nightly(number), epochs=log.epochs)
            night = night_at(store, f"good{number:02d}", end_ms + 1)
            reason = _run(night, recipe, encoder)
            if reason is None:
                written = (night.workspace.directory / "metrics.json").read_text("utf-8")
                found.ndcg.append(json.loads(written)["ndcg@10"])
            else:
                found.refused_good.append(f"night {number}: {reason}")
        for number, (name, bad) in enumerate(tqdm(WORSE.items(), desc="worse", unit="night")):
            before = _live(store)
            night = night_at(store, f"worse{number}", int(ends_ms[-1]) + 1)
            recipe = replace(nightly(number), epochs=log.epochs)
            reason = _run(night, recipe, encoder, bad)
            assert reason is None or _live(store) == before, "what was refused is live"
            found.worse[name] = "**passed**" if reason is None else reason
    return found


class _Growing:
    """The store, which has the log up to a moment."""

    def __init__(
        self, store: LocalStore, events: Interactions, items: CatalogByDay, encoder: KnownTexts
    ) -> None:
        self._store, self._events, self._items, self._encoder = store, events, items, encoder
        self._until_ms, self._there = LONG_AGO_MS, 0

    def until(self, now_ms: int) -> None:
        """Puts and posts what came since."""
        self._there = put_items(self._store, self._items, self._encoder, self._there, now_ms)
        post_events(self._store, self._events, self._until_ms, now_ms)
        self._until_ms = now_ms


def _run(
    night: Night, recipe: TrainConfig, encoder: KnownTexts, bad: Bad | None = None
) -> str | None:
    """None: published. Else why not."""
    try:
        for name, step in steps(recipe, encoder).items():
            if name != "verify":  # which waits for replicas
                is_bad = bad is not None and name == bad.step
                run_step(night, name, spoiled(step, bad) if bad and is_bad else step)
    except ENDS as error:
        if not isinstance(error, GateRefused):
            raise
        return str(error).partition(" (next")[0]
    return None


def _live(store: LocalStore) -> str | None:
    with read_snapshot(store.engine) as conn:
        pointer = generations.read_live(conn)
    return None if pointer is None else pointer.generation_id


def section(found: dict[str, tuple[Log, Found]], before: str = "") -> str:
    """Of the page: a row a log, and a row a worse model. Those of other logs stay as they were in
    the section `before`."""
    others = [log.title for log in LOGS if log.title not in found]
    kept = [line for line in before.splitlines() if line.startswith(_starts(others))]
    lines = [
        f"{TITLE}{GATE_TITLE}",
        "",
        "`python -m infra.bench.gate_nights --data FOLDER`; nights of the shipped steps, each on a "
        f"longer log, from {FIRST_SHARE:.0%} of it to all, with a seed of its own; then nights on "
        "the whole log whose model was made worse, every file whole. "
        f"{datetime.now(UTC).date().isoformat()}, {machine()}; {told(versions(PACKAGES))}.",
        "",
        "| log | epochs | good nights | passed | NDCG@10 of lists on the holdout, first to last |",
        "|---|---|---|---|---|",
    ]
    for title, (log, nights) in found.items():
        ndcg = f"{nights.ndcg[0]:.4f} to {nights.ndcg[-1]:.4f}" if nights.ndcg else ""
        lines.append(f"| {title} | {log.epochs} | {log.nights} | {len(nights.ndcg)} | {ndcg} |")
    lines += [line for line in kept if line.count("|") == 6]
    lines += ["", "| log | made worse | what the gate said |", "|---|---|---|"]
    for title, (_, nights) in found.items():
        lines += [f"| {title} | {name} | {said} |" for name, said in nights.worse.items()]
    lines += [line for line in kept if line.count("|") == 4]
    refused = [
        f"Refused, {title}, {reason}"
        for title, (_, nights) in found.items()
        for reason in nights.refused_good
    ]
    return "\n".join([*lines, *([""] if refused else []), *refused]) + "\n"


def _starts(titles: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"| {title} |" for title in titles)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run them, and put the section into the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="holds ifdb/ and online_retail/")
    data: Path | None = parser.parse_args(arguments).data
    state_dir = CliSettings().state_dir
    bert = NightSettings().bert_model or str(state_dir / "models" / "all-MiniLM-L6-v2")
    texts = TextVectors(state_dir / "evaluation", bert, tqdm.write)
    found: dict[str, tuple[Log, Found]] = {}
    for log in LOGS:
        is_named = log.data == "ml-100k"
        if not is_named and (data is None or not (data / log.data).is_dir()):
            continue
        source = log.data if data is None or is_named else str(data / log.data)
        events = load_interactions(source, state_dir)
        found[log.title] = (log, run(events, texts.of(events.texts_I), log))
        before = PAGE.read_text(encoding="utf-8")
        made = {GATE_TITLE: section(found, dict(sections_of(before)).get(GATE_TITLE, ""))}
        PAGE.write_text(page_with(made, before, TITLES), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
