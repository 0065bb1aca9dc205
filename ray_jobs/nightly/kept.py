"""What a step has done so far, kept for its next try: a killed step goes on at its last chunk.

    work/<generation_id>/kept/<step>/<name>      whole files, each written once or replaced
    work/<generation_id>/kept/<step>.json        in an object store: which there are, with digests

With an object store each file is put as soon as it is there, since the next try may be on another
node. Only the step itself writes here, and it takes all away when it is done. No file has rows of
users: an erasure between two tries has nothing to rewrite.
"""

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from ray_jobs.nightly.workspace import WORK, Workspace
from ray_jobs.shards.atomic import TEMPORARY_PREFIX, whole_file
from ray_jobs.shards.errors import DamagedObject, MissingObject
from ray_jobs.shards.manifest import FileEntry, is_plain

log = logging.getLogger("moonlark.night")

KEPT = "kept"
MAX_LIST_BYTES = 16 << 20

Entries = dict[str, FileEntry]
_ENTRIES = TypeAdapter(Entries)


@dataclass(frozen=True, slots=True)
class Kept:
    """The kept files of one step of one night."""

    workspace: Workspace
    step: str

    def keep(self, name: str, write: Callable[[Path], None]) -> None:
        """A file of that name, as `write` writes it: whole, or not at all.

        Raises:
            ray_jobs.shards.errors.StoreAway: the object store did not take it.
        """
        path = self._folder / name
        with whole_file(path) as temporary:
            write(temporary)
        objects = self.workspace.objects
        if objects is not None:
            entries = self._entries() | {name: objects.put(path, f"{self._prefix}/{name}")}
            objects.put_bytes(_ENTRIES.dump_json(entries), f"{self._prefix}.json")

    def files(self) -> list[Path]:
        """All that is kept, by name; fetched from the object store if need be.

        Raises:
            ray_jobs.shards.errors.StoreAway: the object store does not answer.
        """
        objects = self.workspace.objects
        if objects is not None:
            for name, entry in self._entries().items():
                try:
                    objects.get(f"{self._prefix}/{name}", self._folder / name, entry)
                except (DamagedObject, MissingObject) as error:
                    log.warning("%s is made again: %s", name, error)
        if not self._folder.is_dir():
            return []
        there = self._folder.iterdir()
        return sorted(path for path in there if not path.name.startswith(TEMPORARY_PREFIX))

    def forget(self) -> None:
        """Take all of it away; the step is done."""
        objects = self.workspace.objects
        if objects is not None:
            objects.delete(f"{self._prefix}.json")
            objects.delete_folder(self._prefix)
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def _folder(self) -> Path:
        return self.workspace.work / KEPT / self.step

    @property
    def _prefix(self) -> str:
        return f"{WORK}/{self.workspace.generation_id}/{KEPT}/{self.step}"

    def _entries(self) -> Entries:
        """Of the object store; none where its list is not what was written."""
        assert self.workspace.objects is not None
        try:
            raw = self.workspace.objects.get_bytes(f"{self._prefix}.json", MAX_LIST_BYTES)
            entries = _ENTRIES.validate_json(raw)
        except (MissingObject, DamagedObject, ValidationError):
            return {}
        return {name: entry for name, entry in entries.items() if is_plain(name)}


@dataclass(frozen=True, slots=True)
class KeptFile:
    """One file, replaced as its step goes on; a `fit_checkpoint.Checkpoint`, too."""

    kept: Kept
    name: str

    def latest(self) -> Path | None:
        """The file, if there is one. Raises as `Kept.files`."""
        return next((path for path in self.kept.files() if path.name == self.name), None)

    def keep(self, write: Callable[[Path], None]) -> None:
        """Replace it by what `write` writes. Raises as `Kept.keep`."""
        self.kept.keep(self.name, write)
