"""The files of a generation of the made catalog: the night without BERT and without training.

The index, the items, the priors and the manifest are written by the shipped code. The LSTM's
weights are drawn and its output layer is fitted, so that user vectors lie near the user's last
items: a search then probes what a trained one's would. E text_dim, D dim, N items, H hidden.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sqlalchemy import Engine
from tqdm import tqdm

from infra.bench.serving.made_catalog import MadeCatalog
from infra.drills.generation import seal
from ray_jobs.encoders.fit import FitResult
from ray_jobs.encoders.fold import FoldEvent, fold, user_vector
from ray_jobs.encoders.user_encoder import UserEncoder, unit_rows
from ray_jobs.encoders.user_lstm import UserLSTM, UserLSTMConfig
from ray_jobs.encoders.weights import load_weights, save_weights
from ray_jobs.nightly.build import QUERIES, measured_probing
from ray_jobs.nightly.export import as_shown
from ray_jobs.nightly.settings import NightSettings
from ray_jobs.ranking.activity import Activity
from ray_jobs.ranking.fusion import FEATURES, NEEDS_USER, Fusion, UserWeights
from ray_jobs.ranking.neighbours import count_neighbours
from ray_jobs.ranking.priors import Priors
from ray_jobs.ranking.trend import HOUR_MS, KIND_WEIGHTS
from ray_jobs.shards.atomic import whole_file
from ray_jobs.shards.items import write_items
from ray_jobs.shards.manifest import COARSE_NAME, shard_name, write_manifest
from ray_jobs.shards.placement import FamilyChoice, choose_family, choose_shard_count, shard_of
from ray_jobs.shards.texts import write_text_vectors
from ray_jobs.shards.writer import train_coarse, write_coarse, write_shard
from sql import catalog
from sql.engine import read_snapshot
from sql.events import iterate_log
from sql.sessions import SessionRow

DIM = 128
TAUGHT_BY = 4_000
"""Users whose states fit the output layer."""
LAST_ITEMS = 5
PAGE = 5_000


@dataclass(frozen=True)
class Log:
    """The log as columns (L,), by user, each user's in order."""

    user_keys: NDArray[np.int64]
    user_seqs: NDArray[np.int64]
    ordinals: NDArray[np.int64]
    kinds: Sequence[str]
    at_ms: NDArray[np.int64]

    @classmethod
    def read(cls, engine: Engine) -> Log:
        """All of it, of one snapshot."""
        numbers: list[tuple[int, int, int, int]] = []
        kinds: list[str] = []
        with read_snapshot(engine) as conn:
            for chunk in tqdm(iterate_log(conn), desc="read the log", leave=False):
                for event in chunk:
                    assert event.ordinal is not None, "made events name items"
                    row = event.user_key, event.user_seq, event.ordinal, event.occurred_at_ms
                    numbers.append(row)
                    kinds.append(str(event.kind))
        columns = np.array(numbers, np.int64).T
        return cls(columns[0], columns[1], columns[2], kinds, columns[3])

    def histories(self, bert_NE: NDArray[np.float32]) -> Iterator[tuple[int, list[FoldEvent]]]:
        """user_key, and the user's events as the fold reads them."""
        starts = np.flatnonzero(np.diff(self.user_keys, prepend=-1)).tolist()
        for first, end in zip(starts, [*starts[1:], len(self.user_keys)], strict=True):
            yield (
                int(self.user_keys[first]),
                [
                    FoldEvent(
                        int(self.user_seqs[row]),
                        self.kinds[row],
                        int(self.ordinals[row]),
                        bert_NE[self.ordinals[row]],
                        at_ms=int(self.at_ms[row]),
                    )
                    for row in range(first, end)
                ],
            )


def write_generation(
    engine: Engine,
    directory: Path,
    made: MadeCatalog,
    *,
    encoder_id: str,
    at_ms: int,
) -> Iterator[SessionRow]:
    """Write and seal the generation `directory`; gives the sessions of all users.

    Ordinals are the items' numbers: the catalog was filled in their order.
    """
    (directory / "shards").mkdir(parents=True)
    bert_NE = made.vectors()
    seq = _write_catalog(engine, directory, bert_NE)
    log = Log.read(engine)
    weights = directory / "weights.safetensors"
    ordinals_N = np.arange(len(made), dtype=np.int64)
    save_weights(weights, _drawn(made.seed, bert_NE, log))
    encoder = load_weights(weights)
    vectors_ND = np.concatenate(
        [
            encoder.item_vectors(bert_NE[part], part)
            for part in np.array_split(ordinals_N, max(1, len(made) // 50_000))
        ]
    )
    choice, shards = _write_index(directory, vectors_ND, ordinals_N)
    nprobe = 0
    if choice.family != "Flat":
        asked_BD = _asked(encoder, log, bert_NE)
        nprobe = measured_probing(
            *(directory, shards, asked_BD, vectors_ND, ordinals_N, NightSettings().index_recall)
        ).nprobe
    _write_priors(directory, log, len(made), at_ms)
    manifest = write_manifest(
        directory,
        generation_id=directory.name,
        encoder_id=encoder_id,
        text_dim=bert_NE.shape[1],
        dim=encoder.dim,
        item_count=len(made),
        catalog_seq=seq,
        family=choice.family,
        nlist=choice.nlist,
        nprobe=nprobe,
        shard_count=shards,
    )
    seal(engine, directory, manifest, at_ms)
    yield from _sessions(encoder, log, bert_NE)


def _write_catalog(engine: Engine, directory: Path, bert_NE: NDArray[np.float32]) -> int:
    """items.parquet and the texts' vectors; the watermark of the catalog."""
    items: list[catalog.Item] = []
    with read_snapshot(engine) as conn, tqdm(desc="items", total=len(bert_NE), leave=False) as bar:
        seq = catalog.catalog_seq(conn)
        while page := catalog.read_items(conn, items[-1].ordinal if items else -1, PAGE):
            items += page
            bar.update(len(page))
    assert [item.ordinal for item in items] == list(range(len(bert_NE))), "filled in order"
    write_text_vectors(directory, [item.text_digest for item in items], bert_NE)
    write_items(directory, map(as_shown, items))
    return seq


def _drawn(seed: int, bert_NE: NDArray[np.float32], log: Log) -> FitResult:
    """Drawn weights whose output layer is the least squares from h to the mean of the last items'
    vectors."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = UserLSTMConfig(text_dim=bert_NE.shape[1], dim=DIM, hidden=DIM)
        model = UserLSTM(config).eval()
    nobody = np.zeros(0, np.int64)
    result = FitResult(model, nobody, (), 0)
    encoder = _loaded(result)
    histories = [events for _, events in islice(log.histories(bert_NE), TAUGHT_BY)]
    states_UH = np.stack([fold(encoder, None, events).h for events in histories])
    targets_UD = np.stack([_taste(encoder, events) for events in histories])
    inputs = np.concatenate([states_UH, np.ones((len(states_UH), 1), np.float32)], axis=1)
    solved = np.linalg.lstsq(inputs, targets_UD, rcond=None)[0].astype(np.float32)
    with torch.no_grad():
        model.out.weight.copy_(torch.from_numpy(solved[:-1].T.copy()))
        model.out.bias.copy_(torch.from_numpy(solved[-1]))
    return result


def _loaded(result: FitResult) -> UserEncoder:
    """By way of the file, as everywhere."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        save_weights(path, result)
        return load_weights(path)


def _taste(encoder: UserEncoder, events: Sequence[FoldEvent]) -> NDArray[np.float32]:
    last = [event for event in events[-LAST_ITEMS:] if event.vector is not None]
    bert = np.stack([event.vector for event in last if event.vector is not None])
    ordinals = np.array([event.ordinal for event in last], np.int64)
    mean_D: NDArray[np.float32] = unit_rows(encoder.item_vectors(bert, ordinals).mean(axis=0))
    return mean_D


def _asked(encoder: UserEncoder, log: Log, bert_NE: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vectors (B, D) of users as they come (all are drawn alike), the last of so many."""
    histories = [events for _, events in islice(log.histories(bert_NE), TAUGHT_BY + QUERIES)]
    sessions = [fold(encoder, None, events) for events in histories[-QUERIES:]]
    vectors = [user_vector(encoder, session) for session in sessions]
    return np.stack([vector for vector in vectors if vector is not None])


def _write_index(
    directory: Path, vectors_ND: NDArray[np.float32], ordinals_N: NDArray[np.int64]
) -> tuple[FamilyChoice, int]:
    """The shards: their family, and how many."""
    choice, shards = choose_family(len(vectors_ND)), choose_shard_count(len(vectors_ND))
    coarse: Path | None = None
    if choice.family != "Flat":
        coarse = directory / COARSE_NAME
        write_coarse(coarse, train_coarse(vectors_ND, choice.nlist, seed=0))
    numbers = shard_of(ordinals_N, shards)
    for number in tqdm(range(shards), desc="shards", leave=False):
        here = numbers == number
        path = directory / shard_name(number)
        write_shard(path, vectors_ND[here], ordinals_N[here], choice.family, coarse)
    return choice, shards


def _write_priors(directory: Path, log: Log, items: int, at_ms: int) -> None:
    """Activity and neighbours as the night counts them. The weights of fusion are given: a made
    taste teaches none, and they cost nothing to apply."""
    hour = at_ms // HOUR_MS
    hours_L = log.at_ms // HOUR_MS
    weights_L = np.array([KIND_WEIGHTS.get(kind, 0.0) for kind in log.kinds], np.float32)
    order = np.argsort(hours_L, kind="stable")
    counted = [
        (int(hours_L[rows[0]]), (log.ordinals[rows], weights_L[rows]))
        for rows in np.split(order, np.flatnonzero(np.diff(hours_L[order])) + 1)
    ]
    activity = Activity.of_hours(counted, hour * HOUR_MS)
    by_time = np.argsort(log.at_ms, kind="stable")
    neighbours = count_neighbours(log.user_keys[by_time], log.ordinals[by_time], items)
    known = tuple(1.0 if name == "cosine" else 0.05 for name in FEATURES)
    new = tuple(0.0 if name in NEEDS_USER else 0.05 for name in FEATURES)
    weights = UserWeights(known=known, new=new)
    fusion = Fusion(
        lively=weights,
        quiet=weights,
        usual_month=activity.month(at_ms),
        questions=1,
        activity_hour=hour,
    )
    Priors(fusion, activity, neighbours).write(directory, whole_file)


def _sessions(encoder: UserEncoder, log: Log, bert_NE: NDArray[np.float32]) -> Iterator[SessionRow]:
    for user_key, events in log.histories(bert_NE):
        session = fold(encoder, None, events)
        yield SessionRow(user_key, session.user_seq, session.to_bytes())
