"""Items into the catalog. While a generation is live, they are embedded first, so that they can be
recommended the moment they are stored; before the first night there is nothing to embed them for.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Engine

from infra.ingest.columns import ITEM_FIELDS, Columns
from infra.ingest.errors import EncoderMismatch
from infra.ingest.pace import Pace, chunks
from infra.ingest.readers import Rows
from infra.ingest.rejects import Rejects
from infra.ingest.rows import ItemRow, to_item
from sql import catalog, generations
from sql.catalog import ItemPut
from sql.engine import read_snapshot
from sql.ids import BadInput

Progress = Callable[[int], object]


class Encoder(Protocol):
    """What `ray_jobs.encoders.item_bert.BertEncoder` is to us; its module loads torch."""

    @property
    def encoder_id(self) -> str:
        """Changes whenever a text's vector could."""

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors (N, dim)."""


@dataclass(frozen=True, slots=True)
class ItemsReport:
    """What became of the rows of a catalog."""

    created: int
    updated: int
    unchanged: int
    embedded: int


def read_item_rows(source: Rows, columns: Columns, rejects: Rejects) -> Iterator[ItemRow]:
    """The items of a file; bad rows go to `rejects`."""
    for number, cells in source.rows:
        item = (cells,) if isinstance(cells, BadInput) else to_item(number, cells, columns)
        if isinstance(item, ItemRow):
            yield item
        else:
            rejects.add(number, item)


def unused_columns(source: Rows, columns: Columns) -> list[str]:
    """Columns of a catalog file that no field takes. Raises `BadColumns`."""
    return columns.check(ITEM_FIELDS, source.columns)


def live_encoder_id(conn: Connection) -> str | None:
    """The encoder of the live generation, or None before the first night."""
    live = generations.read_live(conn)
    if live is None:
        return None
    generation = generations.get_generation(conn, live.generation_id)
    return None if generation is None else generation.encoder_id


def check_encoder(engine: Engine, encoder: Encoder) -> None:
    """Raises `EncoderMismatch` unless `encoder` is the live generation's."""
    with read_snapshot(engine) as conn:
        live = generations.read_live(conn)
        wanted = live_encoder_id(conn)
    if live is not None and wanted != encoder.encoder_id:
        raise EncoderMismatch(live.generation_id, str(wanted), encoder.encoder_id)


def write_items(
    engine: Engine,
    items: Iterable[ItemRow],
    *,
    rejects: Rejects,
    at_ms: int,
    encoder: Encoder | None = None,
    pace: Pace | None = None,
    progress: Progress | None = None,
) -> ItemsReport:
    """Put items in their order, in paced transactions; a later row of the same id wins.

    A `version` below the stored one is rejected. Memory: one transaction's items.
    """
    pace = pace or Pace()
    outcomes: Counter[str] = Counter()
    embedded = 0
    for chunk in chunks(items, pace.items):
        puts = [item.put for item in chunk]
        if encoder is not None:
            puts, new = _embed(engine, puts, encoder)
            embedded += new
        for item, result in zip(chunk, catalog.put_items(engine, puts, at_ms), strict=True):
            outcomes[result.outcome] += 1
            if result.outcome == "stale_version":
                accepted = f"one above {result.version}, which is stored"
                rejects.add(item.row, [BadInput("version", item.put.version, accepted)])
        if progress is not None:
            progress(len(chunk))
        pace.rest()
    return ItemsReport(outcomes["created"], outcomes["updated"], outcomes["unchanged"], embedded)


def _embed(engine: Engine, puts: Sequence[ItemPut], encoder: Encoder) -> tuple[list[ItemPut], int]:
    """`puts` with vectors; a text that was embedded before is not embedded again."""
    texts = {put.text_digest: put.bert_text for put in puts}
    with read_snapshot(engine) as conn:
        vectors = dict(catalog.read_item_vectors(conn, encoder.encoder_id, list(texts)))
    missing = [digest for digest in texts if digest not in vectors]
    if missing:
        encoded = encoder.encode([texts[digest] for digest in missing])
        vectors.update(zip(missing, encoded, strict=True))
    return [_with_vector(put, encoder.encoder_id, vectors) for put in puts], len(missing)


def _with_vector(
    put: ItemPut, encoder_id: str, vectors: Mapping[str, NDArray[np.float32]]
) -> ItemPut:
    return replace(put, vectors={encoder_id: vectors[put.text_digest]})
