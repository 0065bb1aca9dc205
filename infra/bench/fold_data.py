"""Made data for the bench of the fold: a model, histories, and the exported files of a night.

The weights are those that training starts with: what a fold costs depends on shapes and lengths
alone.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from infra.bench.vectors import clustered
from ray_jobs.encoders.config import KINDS, UserLSTMConfig
from ray_jobs.encoders.fold import FoldEvent
from ray_jobs.encoders.user_lstm import UserLSTM
from ray_jobs.encoders.weights import save_weights
from ray_jobs.nightly.event_vectors import write_event_vectors
from ray_jobs.nightly.export import CHUNK, EVENTS_SCHEMA, TRIMMED_SCHEMA
from ray_jobs.nightly.workspace import Workspace
from ray_jobs.shards.texts import write_text_vectors

TEXT_DIM = 384
ITEMS = 20_000
ITEM_KINDS = KINDS[:5]
"""Kinds that name an item: searches have vectors of their own, and are rare in a log."""
RATING = KINDS.index("rating")
START_MS = 1_750_000_000_000


@dataclass(frozen=True)
class Fitted:
    """A model as training hands it over."""

    model: UserLSTM
    residual_ordinals: NDArray[np.int64]


def user_lstm(seed: int) -> tuple[UserLSTM, NDArray[np.int64]]:
    """A model of the default shape with a residual for every second item, and whose they are."""
    torch.manual_seed(seed)
    ordinals = np.arange(0, ITEMS, 2, dtype=np.int64)
    config = UserLSTMConfig(text_dim=TEXT_DIM, residual_count=len(ordinals))
    return UserLSTM(config).eval(), ordinals


def made_texts(rng: np.random.Generator) -> NDArray[np.float32]:
    """Unit vectors (ITEMS, TEXT_DIM)."""
    return clustered(rng, ITEMS, TEXT_DIM)


def history(
    rng: np.random.Generator, texts_TE: NDArray[np.float32], length: int
) -> list[FoldEvent]:
    """One user's log, each event of another kind and item."""
    ordinals = rng.choice(ITEMS, length, replace=False)
    return [
        FoldEvent(row + 1, ITEM_KINDS[row % len(ITEM_KINDS)], int(ordinal), texts_TE[ordinal], 4.0)
        for row, ordinal in enumerate(ordinals)
    ]


def write_night(root: Path, users: int, mean_events: int, seed: int) -> tuple[Workspace, int]:
    """What `ray_jobs.nightly.fold.fold_range` reads, for the user_keys 1 .. users: the workspace,
    and the number of events. Lengths are geometric: most histories are short, some are long."""
    rng = np.random.default_rng(seed)
    workspace = Workspace(root, "bench")
    workspace.make()
    model, ordinals = user_lstm(seed)
    save_weights(workspace.directory / "weights.safetensors", Fitted(model, ordinals))
    digests = np.array([f"{ordinal:032x}" for ordinal in range(ITEMS)])
    write_text_vectors(workspace.directory, digests.tolist(), made_texts(rng))
    write_event_vectors(workspace.work, {}, TEXT_DIM)
    pq.write_table(TRIMMED_SCHEMA.empty_table(), workspace.trimmed)
    lengths_U = rng.geometric(1.0 / mean_events, users)
    events = int(lengths_U.sum())
    starts_U = np.cumsum(lengths_U) - lengths_U
    item_E = rng.integers(0, ITEMS, events)
    kind_E = rng.integers(0, len(ITEM_KINDS), events)
    at_E = START_MS + 60_000 * np.arange(events, dtype=np.int64)
    columns = {
        "user_key": np.repeat(np.arange(1, users + 1), lengths_U),
        "user_seq": 1 + np.arange(events) - np.repeat(starts_U, lengths_U),
        "kind": np.array(ITEM_KINDS)[kind_E],
        "ordinal": item_E,
        "text_digest": digests[item_E],
        "value": np.where(kind_E == RATING, rng.integers(1, 6, events), np.nan),
        "occurred_at_ms": at_E,
        "received_at_ms": at_E,
    }
    arrays = [
        pa.array(columns[field.name], field.type, from_pandas=True)
        if field.name in columns
        else pa.nulls(events, field.type)
        for field in EVENTS_SCHEMA
    ]
    table = pa.table(arrays, schema=EVENTS_SCHEMA)
    pq.write_table(table, workspace.events, row_group_size=CHUNK)
    return workspace, events
