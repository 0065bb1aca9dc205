"""A generation is sealed: the digest of every file, in the manifest and in the registry."""

from ray_jobs.nightly.rebuild import watermark_metric
from ray_jobs.nightly.step import Night
from ray_jobs.nightly.step_figures import STEPS, of_night
from ray_jobs.shards.manifest import (
    MANIFEST_NAME,
    Manifest,
    manifest_digest,
    open_manifest,
    write_manifest,
)
from sql import generations
from sql.engine import read_snapshot


def write_generation_manifest(night: Night) -> Manifest:
    """Digest every file and write MANIFEST.json: the folder is whole from here on.

    Once: a step that is tried again keeps the digests of what the night made, so that a byte which
    changed since then is found, and not digested anew.

    Raises:
        ray_jobs.shards.errors.ShardsError: a manifest is there, and the files are not as it says.
    """
    directory = night.workspace.directory
    if (directory / MANIFEST_NAME).exists():
        return open_manifest(directory)
    exported = night.workspace.require_report("export")
    embedded = night.workspace.require_report("embed")
    built = night.workspace.require_report("build")
    return write_manifest(
        directory,
        generation_id=night.generation_id,
        encoder_id=embedded["encoder_id"],
        text_dim=embedded["text_dim"],
        dim=built["dim"],
        family=built["family"],
        nlist=built["nlist"],
        nprobe=built["nprobe"],
        shard_count=built["shards"],
        item_count=built["items"],
        catalog_seq=exported["catalog_seq"],
    )


def seal(night: Night, manifest: Manifest, *, index_recall: float) -> None:
    """Register the generation as sealed, ready to be staged."""
    exported = night.workspace.require_report("export")
    evaluated = night.workspace.require_report("evaluate")
    embedded = night.workspace.require_report("embed")
    canaries = {name: embedded[name] for name in ("canary_texts", "canary_min_cosine")}
    checked = night.workspace.report("check") or {}
    checks = {name: value for name, value in checked.items() if name.startswith("check_")}
    files = [
        generations.Artifact(path, entry.sha256, entry.size)
        for path, entry in sorted(manifest.files.items())
    ]
    with read_snapshot(night.engine) as conn:
        found = generations.get_generation(conn, night.generation_id)
    if found is not None and found.state == "building":  # else a try before this one sealed it
        generations.record_artifacts(night.engine, night.generation_id, files)
    generations.seal(
        night.engine,
        night.generation_id,
        manifest_digest=manifest_digest(night.workspace.directory),
        metrics={
            **evaluated,
            **canaries,
            **checks,
            "index_recall": index_recall,
            STEPS: of_night(night.workspace),
            **watermark_metric(exported),
        },
        event_count=exported["events"],
        user_count=exported["users"],
    )
