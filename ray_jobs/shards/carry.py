"""Generations to an object store and back: made in and read from folders, carried by the store.

    <store>/generations/<generation_id>/MANIFEST.json   put last: without it there is no generation
    <store>/generations/<generation_id>/...             the files that it names (FORMAT.md)

A node fetches into `generations/.tmp-<generation_id>` under its artifact root, one fetch at a time
(flock on `.fetch`), each file held against its digest while it is written; then the folder gets its
name. What is there already is never fetched again, and never looked at here: whoever opens a
generation verifies it.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from ray_jobs.shards.atomic import TEMPORARY_PREFIX, whole_file
from ray_jobs.shards.errors import CorruptArtifact, DamagedObject, MissingObject
from ray_jobs.shards.manifest import (
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    FileEntry,
    Manifest,
    Progress,
    parse_manifest,
)
from ray_jobs.shards.object_store import ObjectStore

log = logging.getLogger(__name__)

GENERATIONS = "generations"
LOCK = ".fetch"


def upload_generation(
    store: ObjectStore,
    directory: Path,
    manifest: Manifest,
    *,
    there: Mapping[str, FileEntry] | None = None,
) -> int:
    """Put the files of a sealed generation, its manifest last; returns the bytes sent.

    Again is harmless: the same objects get the same bytes. `there`: what was put before, by path;
    that is not sent again if it is what the manifest says.

    Raises:
        CorruptArtifact: a file is not what the manifest says (any more). There is no manifest then.
        StoreAway: the store did not take it.
    """
    prefix = f"{GENERATIONS}/{manifest.generation_id}"
    sizes = store.sizes(prefix) if there else {}
    left = {
        name: entry
        for name, entry in sorted(manifest.files.items())
        if (there or {}).get(name) != entry or sizes.get(f"{prefix}/{name}") != entry.size
    }
    total = sum(entry.size for entry in left.values())
    with _bar(f"upload {manifest.generation_id}", total) as progress:
        for name, entry in left.items():
            found = store.put(directory / name, f"{prefix}/{name}", progress)
            if found != entry:
                raise CorruptArtifact(directory / name, expected=entry, actual=found)
    store.put_bytes((directory / MANIFEST_NAME).read_bytes(), f"{prefix}/{MANIFEST_NAME}")
    log.info("uploaded %s to %s: %d bytes", manifest.generation_id, store.place(prefix), total)
    return total


def fetch_generation(
    store: ObjectStore, root: Path, generation_id: str, sealed_digest: str | None
) -> Path:
    """The folder of a generation under `root`, fetched if it is not there.

    `sealed_digest`: of its manifest, as the registry has it; None: not looked at.

    Raises:
        MissingObject, DamagedObject: an object is not there, or is not what was sealed.
        ManifestError, UnsafePath: the manifest is none that we write.
        StoreAway: the store does not answer.
        OSError: the disk of this node does not take it.
    """
    directory = root / GENERATIONS / generation_id
    if (directory / MANIFEST_NAME).exists():
        return directory
    with one_at_a_time(root):
        if not (directory / MANIFEST_NAME).exists():  # else another process was quicker
            _fetch(store, directory, generation_id, sealed_digest)
    return directory


def look_at_objects(store: ObjectStore, generation_id: str, sealed_digest: str | None) -> None:
    """Whether a generation could be fetched: its manifest is read, of the others the sizes.

    Raises: as `fetch_generation`; only who reads the bytes finds a flipped one.
    """
    manifest, _ = _manifest_of(store, generation_id, sealed_digest)
    prefix = f"{GENERATIONS}/{generation_id}"
    sizes = store.sizes(prefix)
    for name, entry in sorted(manifest.files.items()):
        place, size = f"{prefix}/{name}", sizes.get(f"{prefix}/{name}")
        if size is None:
            raise MissingObject(store.place(place))
        if size != entry.size:
            expected, actual = f"{entry.size} bytes", f"{size} bytes"
            raise DamagedObject(store.place(place), expected=expected, actual=actual)


def delete_generation(store: ObjectStore, generation_id: str) -> None:
    """Delete a generation's objects, the manifest first: what is left of it is none. Again is
    harmless. Raises StoreAway."""
    store.delete(f"{GENERATIONS}/{generation_id}/{MANIFEST_NAME}")
    store.delete_folder(f"{GENERATIONS}/{generation_id}")


def discard_copies(root: Path, generation_ids: Collection[str]) -> list[str]:
    """Delete the folders of these generations under `root`; returns those that were there.

    Who has one mapped keeps what is mapped.
    """
    gone = [each for each in sorted(generation_ids) if (root / GENERATIONS / each).is_dir()]
    for generation_id in gone:
        shutil.rmtree(root / GENERATIONS / generation_id, ignore_errors=True)
    return gone


def _fetch(
    store: ObjectStore, directory: Path, generation_id: str, sealed_digest: str | None
) -> None:
    prefix = f"{GENERATIONS}/{generation_id}"
    manifest, raw = _manifest_of(store, generation_id, sealed_digest)
    _sweep(directory.parent)
    temporary = directory.with_name(TEMPORARY_PREFIX + directory.name)  # no id begins with a dot
    total = sum(entry.size for entry in manifest.files.values())
    log.info("fetching %s from %s: %d bytes", generation_id, store.place(prefix), total)
    try:
        with _bar(f"fetch {generation_id}", total) as progress:
            for name, entry in sorted(manifest.files.items()):
                store.get(f"{prefix}/{name}", temporary / name, entry, progress)
        with whole_file(temporary / MANIFEST_NAME) as path:
            path.write_bytes(raw)
        shutil.rmtree(directory, ignore_errors=True)  # without a manifest: a step that was killed
        temporary.rename(directory)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _manifest_of(
    store: ObjectStore, generation_id: str, sealed_digest: str | None
) -> tuple[Manifest, bytes]:
    name = f"{GENERATIONS}/{generation_id}/{MANIFEST_NAME}"
    raw = store.get_bytes(name, MAX_MANIFEST_BYTES)
    digest = hashlib.sha256(raw).hexdigest()
    if sealed_digest is not None and digest != sealed_digest:
        raise DamagedObject(
            store.place(name), expected=f"sha256 {sealed_digest}", actual=f"sha256 {digest}"
        )
    return parse_manifest(raw, Path(name)), raw


def _sweep(folder: Path) -> None:
    """What a killed fetch left: nobody else fetches now."""
    for torn in folder.glob(f"{TEMPORARY_PREFIX}*"):
        shutil.rmtree(torn, ignore_errors=True)


@contextmanager
def one_at_a_time(root: Path) -> Iterator[None]:
    """One fetch a node: its replicas start at once, and are to fetch once."""
    (root / GENERATIONS).mkdir(parents=True, exist_ok=True)
    with (root / LOCK).open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _bar(what: str, total: int) -> Iterator[Progress]:
    """Seen where a person waits: on a terminal only."""
    with tqdm(total=total, desc=what, unit="B", unit_scale=True, disable=None, leave=False) as bar:
        yield bar.update
