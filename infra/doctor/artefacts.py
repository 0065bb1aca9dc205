"""The files of the generations that users are answered from, and the disk they lie on."""

import shutil
from pathlib import Path

from sqlalchemy import Engine

from infra.doctor.findings import Finding, Look, NotSeen, looked
from ray_jobs.nightly.workspace import generation_directory
from ray_jobs.shards.errors import ShardsError
from ray_jobs.shards.manifest import manifest_digest, open_manifest, verify
from sql import generations
from sql.engine import read_snapshot

MIN_FREE_SHARE = 0.1
DIGESTED_BYTES = 2 * 2**30
"""About four seconds of SHA-256. A larger generation is looked at by its sizes, unless asked."""


def look_at_artefacts(engine: Engine, root: Path, *, deep: bool) -> Look:
    """The live generation and the one before it. `deep`: every digest, however long it takes."""
    look = looked("disk of the artifact root", _disk(root)) if root.exists() else Look()
    with read_snapshot(engine) as conn:
        pointer = generations.read_live(conn)
        wanted = [] if pointer is None else [pointer.generation_id, pointer.previous]
        found = [generations.get_generation(conn, each) for each in wanted if each is not None]
    for number, generation in enumerate(found):
        if generation is not None and generation.state != "pruned":
            look += _files(root, generation, is_live=number == 0, deep=deep)
    return look


def _disk(root: Path) -> Finding | None:
    disk = shutil.disk_usage(root)
    if disk.free >= MIN_FREE_SHARE * disk.total:
        return None
    share = 100 * disk.free / disk.total
    return Finding("DiskAlmostFull", f"{disk.free / 1e9:.1f} GB free of {root} ({share:.1f} %)")


def _files(root: Path, generation: generations.Generation, *, is_live: bool, deep: bool) -> Look:
    directory = generation_directory(root, generation.generation_id)
    role = "live" if is_live else "previous"
    what = f"files of the {role} generation {generation.generation_id}"
    try:
        digest = manifest_digest(directory)
        if digest != generation.manifest_digest:
            return looked("", _damaged(role, f"{directory}: not the manifest that was sealed"))
        manifest = open_manifest(directory)
        for path, entry in manifest.files.items():
            size = (directory / path).stat().st_size
            if size != entry.size:
                said = f"{directory / path}: {size} bytes, {entry.size} were sealed"
                return looked("", _damaged(role, said))
        whole = sum(entry.size for entry in manifest.files.values())
        if not deep and whole > DIGESTED_BYTES:
            why = f"{whole / 1e9:.1f} GB; sizes are right, --deep reads them"
            return Look(not_seen=(NotSeen(f"digests: {what}", why),))
        verify(directory, manifest)
    except (ShardsError, OSError) as error:
        return looked("", _damaged(role, str(error)))
    return looked(what)


def _damaged(role: str, what: str) -> Finding:
    return Finding("LiveGenerationRefused", f"the {role} generation is damaged: {what}")
