"""What the gate asks of the files: every item is there, under its own id, at its own vector.

A digest says that a file is what the night wrote, not that the night wrote what it should. So the
items are held against the catalog, and each stored vector against what text and weights say of it:
all of them, since two items that changed places would never show in a sampled recall.

Shapes: N items, D dim.
"""

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ray_jobs.nightly import canary
from ray_jobs.nightly.step import Night
from ray_jobs.nightly.workspace import GateRefused
from ray_jobs.shards.items import ITEMS_NAME
from ray_jobs.shards.reader import ShardSet
from ray_jobs.shards.texts import TextVectors
from sql import catalog
from sql.engine import read_snapshot

HINT = "the last good generation stays live; `moonlark generations` shows the reason"

PAGE = 10_000
TEXTS = 200
"""Texts of the generation compared with the vectors that the day stored."""
MIN_COSINE = 0.999
"""Between what a shard stores (fp16) and what text and weights say of the item."""
SEED = 0


def check_items(night: Night) -> None:
    """items.parquet against the catalog, as far as that has not changed since the watermark.

    Raises:
        GateRefused: names the first item that is lost or is another, or whose text has the vector
            of another.
    """
    watermark = night.workspace.require_report("export")["catalog_seq"]
    table = pq.read_table(
        night.workspace.directory / ITEMS_NAME, columns=["ordinal", "item_id", "text_digest"]
    )
    columns = (table[name].to_pylist() for name in ("ordinal", "item_id", "text_digest"))
    written = {
        ordinal: (item_id, digest) for ordinal, item_id, digest in zip(*columns, strict=True)
    }
    after = -1
    with read_snapshot(night.engine) as conn:
        while page := catalog.read_refs(conn, after, PAGE, until_change_seq=watermark):
            after = page[-1].ordinal
            for item in page:
                found = written.get(item.ordinal)
                if found != (item.item_id, item.text_digest):
                    raise GateRefused(_other(item.item_id, item.ordinal, found), hint=HINT)
    _check_texts(night, [digest for _, digest in written.values()])


def _other(item_id: str, ordinal: int, found: tuple[str, str] | None) -> str:
    if found is None:
        return f"item {item_id!r} (ordinal {ordinal}) is lost: {ITEMS_NAME} lacks it"
    what = "another text" if found[0] == item_id else f"item {found[0]!r}"
    return f"{ITEMS_NAME} has {what} at ordinal {ordinal}, the catalog has item {item_id!r}"


def _check_texts(night: Night, digests: list[str]) -> None:
    """Sampled texts against what was stored when the items were put, where it was."""
    encoder_id = night.workspace.require_report("embed")["encoder_id"]
    rows = canary.choose(len(digests), SEED, TEXTS)
    chosen = sorted({digests[row] for row in rows})
    written = TextVectors.open(night.workspace.directory).get(chosen)
    with read_snapshot(night.engine) as conn:
        stored = catalog.read_item_vectors(conn, encoder_id, chosen)
    for digest in chosen:
        if digest not in written:
            raise GateRefused(f"the text {digest} of an item has no vector", hint=HINT)
        cosine = canary.cosine(written[digest], stored[digest]) if digest in stored else 1.0
        if not cosine >= canary.MIN_COSINE:
            raise GateRefused(
                f"the text {digest} has cosine {cosine:.4f} to the vector that it was put with "
                f"(at least {canary.MIN_COSINE})",
                hint=HINT,
            )


def check_vectors(
    shards: ShardSet, ordinals_N: NDArray[np.int64], vectors_ND: NDArray[np.float32]
) -> None:
    """The shards hold these ordinals, each once, at these vectors.

    Raises:
        GateRefused: how many are not where they should be, and the first of them.
        ray_jobs.shards.errors.ShardMismatch: two shards hold the same ordinal.
    """
    if not np.array_equal(shards.ordinals, ordinals_N):
        absent = np.setdiff1d(ordinals_N, shards.ordinals)
        raise GateRefused(
            f"{len(absent)} of {len(ordinals_N)} items are not in the shards, such as "
            f"{absent[:3].tolist()}",
            hint=HINT,
        )
    wrong: list[int] = []
    for first in range(0, len(ordinals_N), PAGE):
        part = slice(first, first + PAGE)
        _, stored_ND = shards.vectors_of(ordinals_N[part])
        cosines = np.einsum("nd,nd->n", stored_ND, vectors_ND[part])
        wrong += ordinals_N[part][~(cosines >= MIN_COSINE)].tolist()
    if wrong:
        raise GateRefused(
            f"{len(wrong)} of {len(ordinals_N)} vectors in the shards are not those of their "
            f"items, such as ordinals {wrong[:3]}",
            hint=HINT,
        )
