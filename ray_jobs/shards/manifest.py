"""MANIFEST.json: what a generation is, and the digest of each of its files.

It is written last, so a folder that has one is whole. `open_manifest` is quick (sizes only) and
runs at every load; `verify` reads every byte, because faiss loads a file with a flipped bit in
silence. FORMAT.md describes each field.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ray_jobs.shards.atomic import TEMPORARY_PREFIX, whole_file
from ray_jobs.shards.errors import CorruptArtifact, ManifestError, MissingArtifact, UnsafePath
from ray_jobs.shards.placement import MAX_NLIST, MAX_SHARDS, Family

FORMAT_VERSION: Literal[2] = 2
MANIFEST_NAME = "MANIFEST.json"
COARSE_NAME = "coarse.faiss"
# What the day cannot answer without. metrics.json is made later in some flows, so it may be absent.
REQUIRED_FILES = (
    "weights.safetensors",
    "items.parquet",
    "texts.digests.npy",
    "texts.vectors.npy",
)
MAX_MANIFEST_BYTES = 4 << 20
MAX_FILES = 4_096
_READ_BYTES = 4 << 20
_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]
Progress = Callable[[int], None]


class FileEntry(BaseModel):
    """Digest (sha256, hex) and size (bytes) of one file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    sha256: Sha256
    size: Count


class Manifest(BaseModel):
    """What decides the meaning of the generation's bytes. Immutable; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format_version: Literal[1, 2]
    generation_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,99}$")]
    encoder_id: Annotated[str, Field(min_length=1, max_length=200)]
    text_dim: Annotated[int, Field(ge=1, le=65_536)]
    dim: Annotated[int, Field(ge=1, le=65_536)]
    metric: Literal["inner_product"]
    family: Family
    nlist: Annotated[int, Field(ge=0, le=MAX_NLIST)]
    nprobe: Annotated[int, Field(ge=0, le=MAX_NLIST)]
    shard_count: Annotated[int, Field(ge=1, le=MAX_SHARDS)]
    item_count: Count
    catalog_seq: Count
    files: Annotated[dict[str, FileEntry], Field(max_length=MAX_FILES)]

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        is_ivf = self.family != "Flat"
        if is_ivf and not 1 <= self.nprobe <= self.nlist:
            raise ValueError(f"nprobe {self.nprobe} must be in 1..nlist ({self.nlist})")
        if not is_ivf and (self.nlist or self.nprobe):
            raise ValueError("a Flat generation has nlist 0 and nprobe 0")
        needed = [*REQUIRED_FILES, *map(shard_name, range(self.shard_count))]
        needed += [COARSE_NAME] if is_ivf else []
        absent = sorted(set(needed) - set(self.files))
        if absent:
            raise ValueError(f"files lacks {absent}")
        return self


def shard_name(number: int) -> str:
    """Path of a shard inside its generation: shards/0000.faiss."""
    return f"shards/{number:04d}.faiss"


def write_manifest(
    directory: Path,
    *,
    generation_id: str,
    encoder_id: str,
    text_dim: int,
    dim: int,
    family: Family,
    nlist: int,
    nprobe: int,
    shard_count: int,
    item_count: int,
    catalog_seq: int,
    files: Iterable[str] | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Digests the files of `directory` and writes MANIFEST.json, atomically.

    `files`: the relative paths to list; every file of the folder when None. `progress` receives the
    bytes digested since its last call. Raises MissingArtifact, UnsafePath, and ManifestError when
    the fields contradict each other.
    """
    names = sorted(_all_files(directory) if files is None else set(files))
    entries = {name: _digest(_safe_path(directory, name), progress) for name in names}
    path = directory / MANIFEST_NAME
    try:
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            generation_id=generation_id,
            encoder_id=encoder_id,
            text_dim=text_dim,
            dim=dim,
            metric="inner_product",
            family=family,
            nlist=nlist,
            nprobe=nprobe,
            shard_count=shard_count,
            item_count=item_count,
            catalog_seq=catalog_seq,
            files=entries,
        )
    except ValidationError as error:
        hint = "run the night's steps before this one again: `moonlark night`"
        raise ManifestError(path, _summary(error), hint=hint) from error
    text = json.dumps(manifest.model_dump(exclude_defaults=True), indent=2, sort_keys=True) + "\n"
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return manifest


def open_manifest(directory: Path) -> Manifest:
    """Parses MANIFEST.json strictly and looks at each file's presence and size, not its bytes.

    Raises ManifestError, MissingArtifact, UnsafePath, CorruptArtifact (size).
    """
    manifest = parse_manifest(_read_manifest(directory), directory / MANIFEST_NAME)
    for name, entry in manifest.files.items():
        size = _safe_path(directory, name).stat().st_size
        if size != entry.size:
            raise CorruptArtifact(
                directory / name, expected=f"{entry.size} bytes", actual=f"{size} bytes"
            )
    return manifest


def parse_manifest(raw: bytes, path: Path) -> Manifest:
    """The manifest in these bytes, by its strict schema. `path` is for the error only.

    Raises ManifestError, and UnsafePath where it lists a file outside of its folder.
    """
    try:
        fields = json.loads(raw, object_pairs_hook=_without_repeats)
        manifest = Manifest.model_validate(fields)
    except ValidationError as error:
        raise ManifestError(path, _summary(error)) from error
    except (ValueError, RecursionError) as error:  # bad JSON or UTF-8, a key twice, too deep
        raise ManifestError(path, str(error)) from error
    for name in manifest.files:
        _segments(path, name)
    return manifest


def verify(
    directory: Path,
    manifest: Manifest,
    progress: Progress | None = None,
    *,
    names: Collection[str] | None = None,
) -> None:
    """Reads every byte of every file listed. Raises CorruptArtifact at the first that differs.

    `progress` receives the bytes read since its last call. About 1 GB/s a core. `names`: of those
    files only, for one who reads no other.
    """
    for name, entry in sorted(manifest.files.items()):
        if names is not None and name not in names:
            continue
        path = _safe_path(directory, name)
        found = _digest(path, progress)
        if found != entry:
            raise CorruptArtifact(
                path,
                expected=f"sha256 {entry.sha256} ({entry.size} bytes)",
                actual=f"sha256 {found.sha256} ({found.size} bytes)",
            )


def manifest_digest(directory: Path) -> str:
    """sha256 (hex) of MANIFEST.json: names the whole generation, since it holds all digests."""
    return hashlib.sha256(_read_manifest(directory)).hexdigest()


def _read_manifest(directory: Path) -> bytes:
    path = directory / MANIFEST_NAME
    if path.is_symlink():
        raise UnsafePath(path, "is a symbolic link")
    if not path.is_file():
        raise ManifestError(path, "absent: the generation was never finished, or is pruned")
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        raise ManifestError(path, f"larger than {MAX_MANIFEST_BYTES} bytes")
    return path.read_bytes()


def _safe_path(directory: Path, name: str) -> Path:
    """The file `name` of the folder: each segment plain, none a symbolic link, and it is a file."""
    path = directory
    for part in _segments(directory / MANIFEST_NAME, name):
        path = path / part
        if path.is_symlink():
            raise UnsafePath(path, "is a symbolic link")
    if not path.is_file():
        raise MissingArtifact(path)
    return path


def is_plain(name: str) -> bool:
    """Whether a relative path stays in its folder: each segment is a plain, visible name."""
    return all(_SEGMENT.fullmatch(part) for part in name.split("/"))


def digest_file(path: Path) -> FileEntry:
    """Digest and size of a file as it is now."""
    return _digest(path, None)


def _segments(manifest: Path, name: str) -> list[str]:
    if name == MANIFEST_NAME or not is_plain(name):
        raise UnsafePath(manifest, f"lists the path {name!r}")
    return name.split("/")


def _all_files(directory: Path) -> set[str]:
    names = set()
    for path in directory.rglob("*"):
        temporary = path.name.startswith(TEMPORARY_PREFIX)
        if not temporary and path.name != MANIFEST_NAME and not path.is_dir():
            names.add(path.relative_to(directory).as_posix())
    return names


def _digest(path: Path, progress: Progress | None) -> FileEntry:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(_READ_BYTES):
            digest.update(chunk)
            size += len(chunk)
            if progress is not None:
                progress(len(chunk))
    return FileEntry(sha256=digest.hexdigest(), size=size)


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError(f"a key is repeated among {[key for key, _ in pairs][:20]}")
    return fields


def _summary(error: ValidationError) -> str:
    parts = (
        f"{'.'.join(map(str, item['loc'])) or 'manifest'}: {item['msg']}" for item in error.errors()
    )
    return "; ".join(list(parts)[:5])
