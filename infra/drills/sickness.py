"""The switch by which a drill makes a deployment sick; both sides use it (`sick_app`).

A folder, by files named after the deployment (`encoder`, `shards0`, ...). `<name>.slow`: each
answer takes so many seconds more. `<name>.held`: a replica that starts waits until the file is
gone, so that what was killed stays away. `<name>.pid`: written by the replica that runs.
`<name>.hung`: the replica of that pid answers nothing any more, and its health check says nothing
of it, as where a lock is never let go; who comes in its place is well.
"""

import asyncio
import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

FOLDER_VARIABLE = "MOONLARK_DRILL_FAULTS"
POLL_S = 0.1


@dataclass(frozen=True)
class Sickness:
    """The files of one deployment."""

    folder: Path
    name: str

    @classmethod
    def here(cls, name: str) -> "Sickness":
        """In a replica: as the environment says."""
        return cls(Path(os.environ[FOLDER_VARIABLE]), name)

    def started(self) -> None:
        """In a replica that starts: wait while it is held off, then say who runs."""
        while self._file("held").exists():
            time.sleep(POLL_S)
        self._file("pid").write_text(str(os.getpid()), encoding="ascii")

    async def slows(self) -> None:
        """In a replica, before each answer."""
        while self._is_hung():
            await asyncio.sleep(POLL_S)
        with contextlib.suppress(FileNotFoundError):
            await asyncio.sleep(float(self._file("slow").read_text(encoding="ascii")))

    def slow_down(self, seconds: float) -> None:
        """From now on each answer takes so much longer."""
        self._put("slow", str(seconds))

    def hang(self) -> None:
        """The replica that runs answers nothing from now on."""
        self._put("hung", self._file("pid").read_text(encoding="ascii"))

    def hold_off(self) -> int:
        """No replica starts from now on; returns the pid of the one that runs."""
        self._file("held").touch()
        return int(self._file("pid").read_text(encoding="ascii"))

    def heal(self) -> None:
        """As before."""
        for what in ("slow", "held", "hung"):
            self._file(what).unlink(missing_ok=True)

    def _is_hung(self) -> bool:
        try:
            return self._file("hung").read_text(encoding="ascii") == str(os.getpid())
        except FileNotFoundError:
            return False

    def _put(self, what: str, content: str) -> None:
        whole = self._file("new")
        whole.write_text(content, encoding="ascii")
        whole.replace(self._file(what))

    def _file(self, what: str) -> Path:
        return self.folder / f"{self.name}.{what}"
