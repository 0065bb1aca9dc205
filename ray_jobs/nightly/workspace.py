"""Where a generation lies while it is made, and where when it is done.

Under the artifact root:

    generations/<generation_id>/   what is published (ray_jobs/shards/FORMAT.md)
    work/<generation_id>/          work files; gone after publish

With an object store (MOONLARK_ARTIFACT_URI) the folder is a node's own, and the store has the same
names (`ray_jobs.shards.carry`, `ray_jobs.nightly.carried`).

Work files may hold rows of users, published files never do. A step writes its report last, so a
report that exists means that the step is done and need not run again.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_jobs.shards.atomic import whole_file
from ray_jobs.shards.carry import GENERATIONS
from ray_jobs.shards.errors import MissingObject
from ray_jobs.shards.object_store import ObjectStore

WORK = "work"
MAX_REPORT_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Workspace:
    """The paths of one generation. `root` is a folder that every Ray node can reach, or, where
    `objects` carries the files, this node's own."""

    root: Path
    generation_id: str
    objects: ObjectStore | None = None

    @property
    def work(self) -> Path:
        """Work files of this night."""
        return work_root(self.root) / self.generation_id

    @property
    def directory(self) -> Path:
        """The generation itself."""
        return generation_directory(self.root, self.generation_id)

    @property
    def items(self) -> Path:
        """Exported catalog, sorted by ordinal."""
        return self.work / "items.parquet"

    @property
    def events(self) -> Path:
        """Exported log, sorted by (user_key, user_seq)."""
        return self.work / "events.parquet"

    @property
    def trimmed(self) -> Path:
        """Exported `trimmed_seq` of the users of whom retention took events."""
        return self.work / "trimmed.parquet"

    @property
    def activity(self) -> Path:
        """Exported activity by hour, ascending."""
        return self.work / "activity.parquet"

    @property
    def texts(self) -> Path:
        """Distinct texts that items and events name, by digest."""
        return self.work / "texts.parquet"

    def make(self) -> None:
        """Create both folders."""
        self.work.mkdir(parents=True, exist_ok=True)
        self.directory.mkdir(parents=True, exist_ok=True)

    def report(self, step: str) -> dict[str, Any] | None:
        """What `step` reported when it was done, or None if it is not."""
        path = self.work / f"{step}.json"
        content = path.read_bytes() if path.exists() else self._report_elsewhere(step)
        if content is None:
            return None
        report: dict[str, Any] = json.loads(content)
        return report

    def _report_elsewhere(self, step: str) -> bytes | None:
        if self.objects is None:
            return None
        try:
            name = f"{WORK}/{self.generation_id}/{step}.json"
            return self.objects.get_bytes(name, MAX_REPORT_BYTES)
        except MissingObject:
            return None

    def require_report(self, step: str) -> dict[str, Any]:
        """As `report`, for a step that must have run.

        Raises:
            StepMissing: names the step to run first.
        """
        report = self.report(step)
        if report is None:
            raise StepMissing(step, self.generation_id)
        return report

    def write_report(self, step: str, report: dict[str, Any]) -> None:
        """Mark `step` done: temp file, fsync, rename."""
        write_json(self.work / f"{step}.json", report)

    def discard_work(self) -> None:
        """Delete the work files (they may hold rows of users)."""
        if self.objects is not None:
            self.objects.delete_folder(f"{WORK}/{self.generation_id}")
        shutil.rmtree(self.work, ignore_errors=True)


def work_root(root: Path) -> Path:
    """Folder of the work folders under the artifact root."""
    return root / WORK


def generation_directory(root: Path, generation_id: str) -> Path:
    """Folder of a published generation under the artifact root."""
    return root / GENERATIONS / generation_id


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write `content` so that a reader sees all of it or none."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, sort_keys=True), encoding="utf-8")


class NightError(RuntimeError):
    """A step of the night cannot go on. `hint` names what to do next.

    NightError
    |-- StepMissing       a step ran before the one it needs
    |-- NothingToDo       the catalog or the log is empty
    |-- DataRefused       what was exported is not what a shop's day looks like
    |-- NoCpus            the Ray cluster can never run a task of it
    |-- GateRefused       the candidate is worse than what is live, or broken
    |-- StageFailed       no replica can answer from the generation
    `-- VerifyFailed      the check after the publish failed
    """

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(f"{message} (next: {hint})")
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        """Pickled as it is: it leaves processes, and what it was made from is not in it."""
        return _again, (type(self), self.args, self.__dict__)


def _again(kind: type[NightError], args: tuple[object, ...], said: dict[str, object]) -> NightError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(said)
    return error


class StepMissing(NightError):
    """A step was run before the one whose output it reads."""

    def __init__(self, step: str, generation_id: str) -> None:
        super().__init__(
            f"step {step!r} of generation {generation_id} has not run",
            hint=f"python -m ray_jobs.nightly.{step} --generation {generation_id}",
        )


class NothingToDo(NightError):
    """There is nothing to make a generation from."""


class DataRefused(NightError):
    """A check of the exported data is out of its bounds: nothing is trained on it."""


class NoCpus(NightError):
    """The Ray cluster can never run a task of the night."""


class GateRefused(NightError):
    """The gate keeps the last good generation live."""


class StageFailed(NightError):
    """No replica became ready: the pointer stays where it is."""


class VerifyFailed(NightError):
    """The check after the publish failed; the message says whether it was rolled back."""
