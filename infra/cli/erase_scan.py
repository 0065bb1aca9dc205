"""The canary scan: where do given strings still stand? The proof of an erasure.

Looked through: every text and blob column of the database, all files under the artifact root (the
columns of Parquet files too, which are compressed), logs and rejected rows in the state folder and
of the local Ray cluster, the bytes of the SQLite file and its write-ahead log, and every object of
the object store where there is one. Of several nodes each has an artifact root and logs of its own.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from sqlalchemy import (
    Column,
    ColumnElement,
    Engine,
    LargeBinary,
    Text,
    cast,
    func,
    literal,
    or_,
    select,
)
from sqlalchemy.engine import make_url

from ray_jobs.shards.errors import MissingObject
from ray_jobs.shards.object_store import ObjectStore
from sql.engine import read_snapshot
from sql.tables import metadata

CHUNK_BYTES = 1 << 20
NOT_OURS = ("datasets", "models")
"""Folders of the state folder that hold what was fetched, not what users did."""

Progress = Callable[[str], object]


def scan_database(engine: Engine, canaries: Sequence[str]) -> Iterator[str]:
    """`table.column: n rows` of each column that has one of the canaries in it."""
    with read_snapshot(engine) as conn:
        for table in metadata.sorted_tables:
            for column in table.columns:
                if not isinstance(column.type, Text | LargeBinary):
                    continue
                hits = [
                    _contains(engine.dialect.name, column, form)
                    for canary in canaries
                    for form in forms(canary)
                ]
                rows = conn.execute(
                    select(func.count()).select_from(table).where(or_(*hits))
                ).scalar_one()
                if rows:
                    yield f"{table.name}.{column.name}: {rows} rows"


def scan_files(
    paths: Iterable[Path], canaries: Sequence[str], progress: Progress | None = None
) -> Iterator[str]:
    """The paths of the files that have one of the canaries in them."""
    wanted = [form for canary in canaries for form in forms(canary)]
    for path in paths:
        if progress is not None:
            progress(path.name)
        try:
            is_hit = _in_bytes(path, wanted) or (
                path.suffix == ".parquet" and _in_parquet(path, wanted)
            )
        except FileNotFoundError:
            continue  # a log that was rotated, a work file that went
        if is_hit:
            yield str(path)


def scan_objects(
    store: ObjectStore, names: Iterable[str], canaries: Sequence[str]
) -> Iterator[str]:
    """Those of these objects that have one of the canaries in them; each is copied here meanwhile.

    Raises:
        StoreAway: the store does not answer.
    """
    with TemporaryDirectory(prefix="moonlark-scan-") as folder:
        for name in names:
            copy = Path(folder) / f"object{Path(name).suffix}"
            try:
                store.copy(name, copy)
            except MissingObject:
                continue  # pruned meanwhile
            if any(scan_files([copy], canaries)):
                yield store.place(name)


def files_of(
    engine: Engine, artifact_root: Path, state_dir: Path, ray_logs: Path | None
) -> list[Path]:
    """What `scan_files` is to look through."""
    roots = [artifact_root, *([ray_logs] if ray_logs else [])]
    if state_dir.exists():
        roots += [path for path in state_dir.iterdir() if path.name not in NOT_OURS]
    found = {path.resolve() for root in roots for path in _files(root)}
    url = make_url(engine.url)
    if url.get_backend_name() == "sqlite" and url.database:
        for suffix in ("", "-wal"):
            path = Path(url.database + suffix).resolve()
            if path.exists():
                found.add(path)
    return sorted(found)


def forms(canary: str) -> list[bytes]:
    """How a string may be written: as it is, in JSON, in JSON that JSON quotes (a rejected line of
    JSON that could not be read), in a URL."""
    escaped = json.dumps(canary)[1:-1]
    quoted = json.dumps(escaped)[1:-1]
    spelled = {canary, escaped, quoted, quote(canary), quote(canary, safe="")}
    return [form.encode() for form in sorted(spelled)]


def _files(root: Path) -> Iterator[Path]:
    if root.is_file():
        yield root
        return
    for path in root.rglob("*"):
        if path.is_file():
            yield path


def _contains(dialect: str, column: Column[Any], form: bytes) -> ColumnElement[bool]:
    is_text = isinstance(column.type, Text)
    if dialect == "sqlite":
        return func.instr(cast(column, LargeBinary), literal(form, LargeBinary)) > 0
    if is_text:
        return func.strpos(column, form.decode()) > 0
    return func.position(literal(form, LargeBinary).op("IN")(column)) > 0


def _in_bytes(path: Path, wanted: Sequence[bytes]) -> bool:
    overlap = max(map(len, wanted)) - 1
    before = b""
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            window = before + chunk
            if any(form in window for form in wanted):
                return True
            before = window[-overlap:] if overlap else b""
    return False


def _in_parquet(path: Path, wanted: Sequence[bytes]) -> bool:
    try:
        source = pq.ParquetFile(path)
    except pa.ArrowInvalid:
        return False  # torn; its bytes were looked through
    for batch in source.iter_batches():
        for column in batch.columns:
            is_text = pa.types.is_string(column.type) or pa.types.is_binary(column.type)
            if is_text and any(_has(column, form) for form in wanted):
                return True
    return False


def _has(column: pa.Array, form: bytes) -> bool:
    return bool(pc.any(pc.match_substring(column.cast(pa.binary()), form)).as_py())
