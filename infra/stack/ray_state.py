"""What a local Ray cluster leaves on disk for other processes: the state file and the token."""

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.stack.errors import StateFileInvalid
from infra.stack.ports import LOOPBACK
from infra.stack.ray_environment import TEMP_PREFIX, RayPorts

STATE_NAME = "state.json"
TOKEN_NAME = "token"


@dataclass(frozen=True, slots=True)
class RayState:
    """Enough to reach and to end the cluster. Pids are reused, hence the creation time."""

    stack_id: str
    head_pid: int
    head_created_s: float
    temp_dir: Path
    ports: RayPorts

    @property
    def jobs_url(self) -> str:
        return f"http://{LOOPBACK}:{self.ports.dashboard}"

    @property
    def gcs_address(self) -> str:
        return f"{LOOPBACK}:{self.ports.gcs}"

    def to_json(self) -> dict[str, Any]:
        """The URLs are for people and scripts; from_json takes them from the ports."""
        return {
            "stack_id": self.stack_id,
            "head_pid": self.head_pid,
            "head_created_s": self.head_created_s,
            "temp_dir": str(self.temp_dir),
            "jobs_url": self.jobs_url,
            "gcs_address": self.gcs_address,
            "ports": self.ports.to_json(),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "RayState":
        temp_dir = Path(document["temp_dir"])
        if not temp_dir.name.startswith(TEMP_PREFIX):
            # stop() removes this folder: never one that we did not make.
            raise ValueError(f"temp_dir: {temp_dir}, accepted: .../{TEMP_PREFIX}*")
        return cls(
            stack_id=str(document["stack_id"]),
            head_pid=int(document["head_pid"]),
            head_created_s=float(document["head_created_s"]),
            temp_dir=temp_dir,
            ports=RayPorts(**document["ports"]),
        )


def read_state(folder: Path) -> RayState | None:
    """The state in `folder`, None if there is none.

    Raises:
        StateFileInvalid: the file is there but is not ours.
    """
    path = folder / STATE_NAME
    try:
        return RayState.from_json(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise StateFileInvalid(
            f"{path}: {error!r}", hint=f"end the processes it names by hand, then remove {path}"
        ) from error


def write_state(folder: Path, state: RayState) -> None:
    """Replaced as a whole: a reader never sees half of it."""
    path = folder / STATE_NAME
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(state.to_json(), indent=2), encoding="utf-8")
    os.replace(temporary, path)


def write_token(folder: Path) -> str:
    """A fresh token of 256 bits, readable by this user only from its first byte on."""
    token = secrets.token_hex(32)
    path = folder / TOKEN_NAME
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(token)
    return token


def remove(folder: Path) -> None:
    """Forget the cluster: state file and token go, logs stay."""
    for name in (STATE_NAME, TOKEN_NAME):
        (folder / name).unlink(missing_ok=True)
