"""RecTools in an environment of its own, and a transformer of it as a process that trains and lists
when it is told.

RecTools needs numpy < 2 and attrs < 24 and cannot be installed beside moonlark: `environment` makes
`rectools/` under the state directory once, with the torch that moonlark has, and the process in it
(`worker`) gets events and histories as files.
"""

import json
import os
import subprocess
import venv
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from infra.evaluation.interactions import Ints
from infra.evaluation.log import Log
from infra.evaluation.rectools.split import write_events, write_histories
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
    """What the worker says of an epoch: the seconds of it alone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epoch: int
    wall_s: float
    cpu_s: float


_LISTS = TypeAdapter(list[list[int]])


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


class Peer:
    """One training. A context manager: the process ends with it."""

    def __init__(
        self,
        python: Path,
        log: Log,
        rows: Ints,
        setting: Mapping[str, Any],
        seed: int,
        folder: Path,
        model: Model = SASREC,
    ) -> None:
        """Learns from these rows. `folder` takes what goes over, and the process's own log."""
        self._events, self._folder = log, folder
        folder.mkdir(parents=True, exist_ok=True)
        write_events(folder / "events.csv", log, rows)
        self._log = folder / "worker.log"
        command = [str(python), str(WORKER), str(folder / "events.csv"), model]
        with self._log.open("wb") as said:
            self._process = subprocess.Popen(
                [*command, json.dumps(dict(setting)), str(seed)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
                env=_alone(),
            )
        self._epochs = 0
        try:
            self.versions: dict[str, str] = self._line()
        except PeerMissing:
            self.end()
            raise

    def train(self) -> Epoch:
        """One more epoch; this process waits meanwhile.

        Raises:
            PeerMissing: the process ended, or answers something else. So do the others.
        """
        try:
            told = Epoch.model_validate(self._ask("epoch"))
        except ValidationError as error:
            raise self._wrong(str(error)) from error
        self._epochs += 1
        if told.epoch != self._epochs:
            raise self._wrong(f"epoch {told.epoch}, expected {self._epochs}")
        return told

    def lists(self, histories: Sequence[Ints]) -> list[list[int]]:
        """The 100 best items after each history (rows of the log, none empty), but those of it."""
        if not histories:
            return []
        write_histories(self._folder / "asked.csv", self._events, histories)
        try:
            lists = _LISTS.validate_python(self._ask(f"lists {self._folder / 'asked.csv'}"))
        except ValidationError as error:
            raise self._wrong(str(error)) from error
        if len(lists) != len(histories):
            raise self._wrong(f"{len(lists)} lists for {len(histories)} histories")
        listed = [item for items in lists for item in items]
        count = self._events.interactions.item_count
        if listed and not 0 <= min(listed) <= max(listed) < count:
            raise self._wrong(f"items must lie in 0..{count - 1}")
        return lists

    def keep(self) -> None:
        """The weights of now, for `restore`."""
        self._ask("keep")

    def restore(self) -> None:
        """What was kept last."""
        self._ask("restore")

    def _ask(self, command: str) -> Any:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(command + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise self._ended() from error
        return self._line()

    def _line(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._ended()
        try:
            return json.loads(line)
        except ValueError as error:
            raise self._wrong(str(error)) from error

    def _wrong(self, what: str) -> PeerMissing:
        return PeerMissing(f"an answer of RecTools: {what}", hint=f"see {WORKER}")

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
        self.end()

    def end(self) -> None:
        """Of the process; again is no error."""
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
