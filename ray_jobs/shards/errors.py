"""Errors of the shelf `ray_jobs.shards`.

    ShardsError
    ├── FaissConflict        faiss-cpu and faiss-gpu are both installed
    ├── ManifestError        MANIFEST.json cannot be read, or is not one we write
    ├── ArtifactError        a file of a generation cannot be used
    │   ├── MissingArtifact  it is not there
    │   ├── CorruptArtifact  its bytes are not the ones that were written
    │   └── UnsafePath       its path leaves the generation's folder
    ├── ShardMismatch        files that are sound alone and do not belong together
    └── ObjectStoreError     an object store (MOONLARK_ARTIFACT_URI) does not give or take a file
        ├── BadStoreUri      its URI names no store, or holds credentials
        ├── StoreAway        it does not answer, or does not let us
        ├── MissingObject    it has no such object
        └── DamagedObject    the object is not the one that was put

Each carries its coordinates (path or place, what was expected, what was found) and a `hint` that
names the next command. A caller's bad argument is a ValueError.
"""

from __future__ import annotations

from pathlib import Path

# What to do with a generation that cannot be read: the night before stays loadable.
RESTORE_HINT = (
    "copy the generation's folder again from the artifact root, or go back with "
    "`moonlark rollback` (`moonlark generations` lists what there is)"
)


class ShardsError(Exception):
    """Root of the tree. `hint` names the command to use next."""

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(f"{message}. Hint: {hint}")
        self.hint = hint


class FaissConflict(ShardsError):
    """Two faiss distributions share one package folder; which one runs is chance."""

    def __init__(self, distributions: tuple[str, ...]) -> None:
        names = " ".join(distributions)
        super().__init__(
            f"these distributions overwrite each other's files: {names}",
            hint=f"pip uninstall -y {names} && pip install 'moonlark[cpu]' (or 'moonlark[gpu]')",
        )
        self.distributions = distributions


class ManifestError(ShardsError):
    """MANIFEST.json is absent, malformed, of another version, or contradicts itself."""

    def __init__(self, path: Path, why: str, *, hint: str = RESTORE_HINT) -> None:
        super().__init__(f"manifest {path}: {why}", hint=hint)
        self.path = path
        self.why = why


class ArtifactError(ShardsError):
    """A file of a generation cannot be used. `path` is the file."""

    def __init__(self, path: Path, why: str, *, hint: str = RESTORE_HINT) -> None:
        super().__init__(f"{path}: {why}", hint=hint)
        self.path = path
        self.why = why


class MissingArtifact(ArtifactError):
    """The file is not there."""

    def __init__(self, path: Path, *, hint: str = RESTORE_HINT) -> None:
        super().__init__(path, "no such file", hint=hint)


class CorruptArtifact(ArtifactError):
    """The file's bytes are not the ones that were written."""

    def __init__(
        self, path: Path, *, expected: object, actual: object, hint: str = RESTORE_HINT
    ) -> None:
        super().__init__(path, f"expected {expected}, found {actual}", hint=hint)
        self.expected = expected
        self.actual = actual


class UnsafePath(ArtifactError):
    """The path is absolute, leaves the folder, or goes through a symbolic link."""


class ShardMismatch(ShardsError):
    """Files of one generation that do not belong together (dimension, centroids, count)."""

    def __init__(self, path: Path, what: str, *, expected: object, actual: object) -> None:
        super().__init__(
            f"{path}: {what} is {actual}, the generation says {expected}", hint=RESTORE_HINT
        )
        self.path = path
        self.what = what
        self.expected = expected
        self.actual = actual


class ObjectStoreError(ShardsError):
    """`place` is the object: the URI without credentials and query, and the object's name."""

    def __init__(self, place: str, why: str, *, hint: str) -> None:
        super().__init__(f"{place}: {why}", hint=hint)
        self.place = place
        self.why = why


class BadStoreUri(ObjectStoreError):
    """No store can be opened by this URI."""

    def __init__(self, place: str, why: str) -> None:
        super().__init__(
            place,
            why,
            hint="set MOONLARK_ARTIFACT_URI to s3://BUCKET/PREFIX?region=REGION, gs:// or file://; "
            "credentials go into the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, "
            "AWS_PROFILE)",
        )


class StoreAway(ObjectStoreError):
    """The store does not answer, or refuses what is asked: nothing is wrong with the files."""

    def __init__(self, place: str, why: str) -> None:
        super().__init__(
            place,
            why,
            hint="see that MOONLARK_ARTIFACT_URI is reached from this node and that its "
            "credentials may read, write, list and delete there; then run the step again",
        )


class MissingObject(ObjectStoreError):
    """There is no such object."""

    def __init__(self, place: str) -> None:
        super().__init__(
            place,
            "no such object",
            hint="`moonlark generations` lists what was sealed and not pruned; go back with "
            "`moonlark rollback --to ID`",
        )


class DamagedObject(ObjectStoreError):
    """The object's bytes are not the ones that were put."""

    def __init__(self, place: str, *, expected: object, actual: object) -> None:
        super().__init__(
            place,
            f"expected {expected}, found {actual}",
            hint="restore the object from a copy of the bucket, or go back with "
            "`moonlark rollback`; another `moonlark night` writes all objects anew",
        )
        self.expected = expected
        self.actual = actual
