"""The ledger of erasures: that someone was erased and when, without saying who.

    <artifact_root>/erasure.key       32 random bytes, mode 0600
    <artifact_root>/erasures.jsonl    {"erasure_id": ..., "erased_at_ms": ..., "user_hmac": ...}

It stands beside the database, so that a restored copy of the database can be told whom it must
forget again. A line is on disk before the erasure it names is committed. A user is named by the
HMAC-SHA256 of the id: without the key nobody can try ids against the ledger. Keep the key out of
the database's backups, and keep it: without it the ledger says nothing.
"""

import fcntl
import hmac
import json
import logging
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from sql.errors import ErasureKeyLost, StoreUnavailable

log = logging.getLogger(__name__)

KEY_NAME = "erasure.key"
KEY_BYTES = 32
LEDGER_NAME = "erasures.jsonl"


class Erased(NamedTuple):
    """A line of the ledger."""

    erasure_id: str
    user_hmac: str
    erased_at_ms: int


class ErasureKey:
    """The secret with which ids are turned into what the ledger and `erasures` name them by."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) != KEY_BYTES:
            raise ValueError(f"erasure key: {len(secret)} bytes, accepted: {KEY_BYTES}")
        self._secret = secret

    @classmethod
    def open(cls, root: Path) -> "ErasureKey":
        """The key in `root`, made there once: all processes that begin at once get the same.

        Raises:
            ErasureKeyLost: there is a ledger, but not the key that it was written with.
        """
        path = root / KEY_NAME
        if not path.exists():
            if (root / LEDGER_NAME).exists():
                raise ErasureKeyLost(str(path))
            root.mkdir(parents=True, exist_ok=True)
            _create_once(path, secrets.token_bytes(KEY_BYTES))
        return cls(path.read_bytes())

    def hmac_of(self, user_id: str) -> str:
        """64 hexadecimal digits that stand for `user_id`."""
        return hmac.digest(self._secret, user_id.encode(), "sha256").hex()

    def __repr__(self) -> str:
        return "ErasureKey()"


class Ledger:
    """The ledger of an artifact root, and its key."""

    def __init__(self, path: Path, key: ErasureKey) -> None:
        self.path, self.key = path, key

    @classmethod
    def open(cls, root: Path) -> "Ledger":
        """Of that artifact root; see `ErasureKey.open`."""
        return cls(root / LEDGER_NAME, ErasureKey.open(root))

    def append(self, entry: Erased) -> None:
        """Write a line; it is on disk when this returns.

        Raises:
            StoreUnavailable: the disk did not take it.
        """
        try:
            self._append(entry)
        except OSError as error:
            raise StoreUnavailable(str(self.path), str(error)) from error

    def _append(self, entry: Erased) -> None:
        is_new = not self.path.exists()
        line = json.dumps(entry._asdict(), sort_keys=True) + "\n"
        with self.path.open("ab+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # given back when the file is closed
            if file.seek(0, os.SEEK_END) and not _ends_a_line(file.fileno()):
                line = "\n" + line  # a writer died amid a line that was never acknowledged
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
        if is_new:
            _sync_folder(self.path.parent)

    def size(self) -> int:
        """Bytes of the file: whether there is something new in it."""
        return self.path.stat().st_size if self.path.exists() else 0

    def read(self) -> list[Erased]:
        """All lines. One that was cut short by a crash is left out, and the log says so."""
        try:
            lines = self.path.read_bytes().splitlines()
        except FileNotFoundError:
            return []
        return list(self._parsed(lines))

    def _parsed(self, lines: Iterable[bytes]) -> Iterable[Erased]:
        for number, line in enumerate(lines, start=1):
            if not line:
                continue
            try:
                fields = json.loads(line)
                yield Erased(
                    str(fields["erasure_id"]), str(fields["user_hmac"]), int(fields["erased_at_ms"])
                )
            except (ValueError, KeyError, TypeError):
                log.error("%s:%d: not a whole line of the ledger, left out", self.path, number)


def _create_once(path: Path, content: bytes) -> None:
    """Make `path` with `content`, whole and on disk, unless somebody else was quicker."""
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            return
        _sync_folder(path.parent)
    finally:
        temporary.unlink()


def _ends_a_line(descriptor: int) -> bool:
    size = os.fstat(descriptor).st_size
    return os.pread(descriptor, 1, size - 1) == b"\n"


def _sync_folder(folder: Path) -> None:
    """A new name in a folder survives a power cut only once the folder itself is synced."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
