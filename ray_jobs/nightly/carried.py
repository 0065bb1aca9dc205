"""What a night takes from the object store and puts there; without a store, nothing.

A generation is read on a node that need not have made it: the next night reads the live one's
weights and vectors, and `verify`, `verify_live` and `parity` all of it.
"""

from pathlib import Path

from ray_jobs.nightly.workspace import generation_directory
from ray_jobs.shards.carry import fetch_generation
from ray_jobs.shards.object_store import ObjectStore
from sql.generations import Generation


def directory_of(root: Path, objects: ObjectStore | None, generation: Generation) -> Path:
    """The folder of a generation, fetched if this node lacks it and it was sealed.

    Raises:
        ray_jobs.shards.errors.ShardsError: the store is away, or its objects are damaged.
    """
    generation_id, sealed_digest = generation.generation_id, generation.manifest_digest
    if objects is None or sealed_digest is None or generation.state == "pruned":
        return generation_directory(root, generation_id)
    return fetch_generation(objects, root, generation_id, sealed_digest)
