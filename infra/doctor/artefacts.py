"""The files of the generations that users are answered from, and the disk they lie on."""

import shutil
from pathlib import Path

from sqlalchemy import Engine

from infra.doctor.findings import Finding, Look, NotSeen, looked
from ray_jobs.nightly.workspace import generation_directory
from ray_jobs.shards.carry import look_at_objects
from ray_jobs.shards.errors import ShardsError, StoreAway
from ray_jobs.shards.manifest import manifest_digest, open_manifest, verify
from ray_jobs.shards.object_store import ObjectStore
from sql import generations
from sql.engine import read_snapshot
from sql.generations import Generation

MIN_FREE_SHARE = 0.1
DIGESTED_BYTES = 2 * 2**30
"""About four seconds of SHA-256. A larger generation is looked at by its sizes, unless asked."""


def look_at_artefacts(
    engine: Engine, root: Path, *, deep: bool, artifact_uri: str | None = None
) -> Look:
    """The live generation and the one before it. `deep`: every digest, however long it takes."""
    look = looked("disk of the artifact root", _disk(root)) if root.exists() else Look()
    with read_snapshot(engine) as conn:
        pointer = generations.read_live(conn)
        wanted = [] if pointer is None else [pointer.generation_id, pointer.previous]
        found = [generations.get_generation(conn, each) for each in wanted if each is not None]
    for number, generation in enumerate(found):
        if generation is not None and generation.state != "pruned":
            is_live = number == 0
            if artifact_uri is not None and not is_on(root, generation):
                look += _objects(artifact_uri, generation, is_live=is_live)
            else:
                look += _files(root, generation, is_live=is_live, deep=deep)
    return look


def _disk(root: Path) -> Finding | None:
    disk = shutil.disk_usage(root)
    if disk.free >= MIN_FREE_SHARE * disk.total:
        return None
    share = 100 * disk.free / disk.total
    what = f"{disk.free / 1e9:.1f} GB free of {root} ({share:.1f} %)"
    return Finding("DiskAlmostFull", what, full_since_ms(root, disk.free, disk.total))


def full_since_ms(root: Path, free: int, total: int) -> int | None:
    """By the newest files: when the one was written without which enough would be free. None where
    something else than our files fills the disk."""
    stats = [path.stat() for path in root.rglob("*") if path.is_file()]
    for stat in sorted(stats, key=lambda each: each.st_mtime_ns, reverse=True):
        free += stat.st_size
        if free >= MIN_FREE_SHARE * total:
            return stat.st_mtime_ns // 1_000_000
    return None


def _files(root: Path, generation: Generation, *, is_live: bool, deep: bool) -> Look:
    role = "live" if is_live else "previous"
    what = f"files of the {role} generation {generation.generation_id}"
    size = _size(generation_directory(root, generation.generation_id))
    is_read = deep or size <= DIGESTED_BYTES
    damage = damage_of(root, generation, is_read=is_read)
    if damage is not None:
        said = f"the {role} generation is damaged: {damage}"
        return looked("", Finding("LiveGenerationRefused", said))
    if not is_read:
        why = f"{size / 1e9:.1f} GB; sizes are right, --deep reads them"
        return Look(not_seen=(NotSeen(f"digests: {what}", why),))
    return looked(what)


def _objects(artifact_uri: str, generation: Generation, *, is_live: bool) -> Look:
    """Of a generation that this node has no copy of: what the object store has."""
    role = "live" if is_live else "previous"
    what = f"objects of the {role} generation {generation.generation_id}"
    try:
        damage = damage_in_store(artifact_uri, generation)
    except StoreAway as error:
        return Look(not_seen=(NotSeen(what, str(error)),))
    if damage is not None:
        said = f"the {role} generation is damaged: {damage}"
        return looked("", Finding("LiveGenerationRefused", said))
    return looked(what)


def is_on(root: Path, generation: Generation) -> bool:
    """Whether this node has a copy of the generation."""
    return generation_directory(root, generation.generation_id).is_dir()


def damage_in_store(artifact_uri: str, generation: Generation) -> str | None:
    """What of a generation's objects is not as it was sealed: the manifest by its digest, the
    others by size. Raises StoreAway."""
    objects = ObjectStore.open(artifact_uri)
    assert objects is not None, "a URI was given"
    try:
        look_at_objects(objects, generation.generation_id, generation.manifest_digest)
    except StoreAway:
        raise
    except ShardsError as error:
        return str(error)
    return None


def damage_of(root: Path, generation: Generation, *, is_read: bool = True) -> str | None:
    """What of a generation's files is not as it was sealed. `is_read`: not only sizes."""
    directory = generation_directory(root, generation.generation_id)
    try:
        if manifest_digest(directory) != generation.manifest_digest:
            return f"{directory}: not the manifest that was sealed"
        manifest = open_manifest(directory)  # looks at the sizes
        if is_read:
            verify(directory, manifest)
    except (ShardsError, OSError) as error:
        return str(error)
    return None


def _size(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
