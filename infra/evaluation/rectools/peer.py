"""RecTools in an environment of its own, and a transformer of it as a process that trains when it
is told.

RecTools needs numpy < 2 and attrs < 24 and cannot be installed beside moonlark: `environment` makes
`rectools/` under the state directory once, with the torch that moonlark has, and the process in it
(`worker`) gets the split as a file.
"""

import json
import os
import subprocess
import venv
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from infra.evaluation.rectools.curve import Point, chosen
from infra.evaluation.rectools.split import ndcg_of_lists, write_split
from infra.evaluation.task import Task
from ray_jobs.shards.atomic import whole_file

WORKER = Path(__file__).with_name("worker.py")
Model = Literal["SASRecModel", "BERT4RecModel"]
SASREC: Model = "SASRecModel"
BERT4REC: Model = "BERT4RecModel"
RECTOOLS = "rectools[torch]==0.19.0"
INSTALL_S = 1800.0
END_S = 60.0
LOG_TAIL = 2_000
"""Characters of the process's log that an error shows."""


class PeerMissing(Exception):
    """RecTools cannot be had here, or its process ended. `hint` names what to do next."""

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(f"{message} (hint: {hint})")
        self.hint = hint


class Epoch(BaseModel):
    """A line of the worker: seconds of this epoch alone, and a list a user, best first."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epoch: int
    wall_s: float
    cpu_s: float
    validation: list[list[int]]
    test: list[list[int]]


def requirements() -> tuple[str, ...]:
    """What the environment holds; torch as moonlark has it (a local part like +cpu is pip's)."""
    return RECTOOLS, f"torch=={version('torch').partition('+')[0]}"


def environment(folder: Path) -> Path:
    """The Python of the environment in `folder`, made where it is not there or holds other things.

    Raises:
        PeerMissing: pip does not install it.
    """
    python = folder / "bin" / "python"
    made_of = folder / "moonlark-requirements.txt"
    wanted = "\n".join(requirements()) + "\n"
    if made_of.is_file() and made_of.read_text(encoding="utf-8") == wanted:
        return python
    print(f"making {folder}: {', '.join(requirements())}", flush=True)
    venv.create(folder, with_pip=True, clear=True)
    command = [str(python), "-m", "pip", "install", "--quiet", *requirements()]
    hint = f"see why: {' '.join(command)}"
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=INSTALL_S
        )
    except subprocess.TimeoutExpired as error:
        raise PeerMissing(f"pip took more than {INSTALL_S:.0f} s", hint=hint) from error
    if done.returncode:
        raise PeerMissing(
            f"RecTools could not be installed: {done.stderr[-LOG_TAIL:].strip()}", hint=hint
        )
    with whole_file(made_of) as temporary:
        temporary.write_text(wanted, encoding="utf-8")
    return python


@dataclass(frozen=True)
class Asked:
    """The questions of both parts, to score a peer's lists with."""

    validation: Task
    test: Task

    @classmethod
    def of(cls, task: Task) -> Self:
        """Of a leave-one-out task."""
        assert task.validation is not None, "leave-one-out has one"
        return cls(task.validation, replace(task, validation=None))

    def point(self, told: Epoch, before: Point | None) -> Point:
        """The next point of the peer's curve: seconds add up.

        Raises:
            ValueError: an epoch out of order, or lists that do not fit the questions.
        """
        expected = 1 if before is None else before.epoch + 1
        if told.epoch != expected:
            raise ValueError(f"epoch {told.epoch}, expected {expected}")
        wall_s, cpu_s = (0.0, 0.0) if before is None else (before.wall_s, before.cpu_s)
        return Point(
            epoch=told.epoch,
            wall_s=wall_s + told.wall_s,
            cpu_s=cpu_s + told.cpu_s,
            validation=ndcg_of_lists(self.validation, told.validation),
            test=ndcg_of_lists(self.test, told.test),
        )


class Peer:
    """One training. A context manager: the process ends with it."""

    def __init__(
        self,
        python: Path,
        task: Task,
        setting: Mapping[str, Any],
        seed: int,
        folder: Path,
        model: Model = SASREC,
    ) -> None:
        """`folder` takes the split and the process's log."""
        self.asked = Asked.of(task)
        self.curve: list[Point] = []
        self.best_lists: list[list[int]] = []
        """Before the test events, of the epoch that validation chooses."""
        folder.mkdir(parents=True, exist_ok=True)
        write_split(task, folder / "events.csv")
        self._log = folder / "worker.log"
        command = [str(python), str(WORKER), str(folder / "events.csv"), model]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, json.dumps(dict(setting)), str(seed)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=_alone(),
            )
        self.versions: dict[str, str] = json.loads(self._line())

    def epoch(self) -> Point:
        """Train one more epoch; this process waits meanwhile.

        Raises:
            PeerMissing: the process ended, or answers something else.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise self._ended() from error
        line = self._line()
        try:
            told = Epoch.model_validate_json(line)
        except ValidationError as error:
            raise PeerMissing(f"an answer of RecTools: {error}", hint=f"see {WORKER}") from error
        point = self.asked.point(told, self.curve[-1] if self.curve else None)
        self.curve.append(point)
        if chosen(self.curve) is point:
            self.best_lists = told.test
        return point

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._ended()
        return line

    def _ended(self) -> PeerMissing:
        tail = self._log.read_text(encoding="utf-8", errors="replace")[-LOG_TAIL:].strip()
        return PeerMissing(f"the process of RecTools ended: {tail}", hint=f"see {self._log}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):  # it ended before
            self._process.stdin.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def _alone() -> dict[str, str]:
    """The environment without our packages, one thread."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return kept | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONNOUSERSITE": "1"}
