"""The ledger of erasures: that someone was erased and when, without saying who.

    <artifact_root>/erasure.key       32 random bytes, mode 0600
    <artifact_root>/erasures.jsonl    {"check": ..., "erasure_id": ..., "erased_at_ms": ...,
                                       "user_hmac": ...}

It stands beside the database, so that a restored copy of the database can be told whom it must
forget again. A line is on disk before the erasure it names is committed. A user is named by the
HMAC-SHA256 of the id: without the key nobody can try ids against the ledger. Keep the key out of
the database's backups, and keep it: without it the ledger says nothing.

`check` is an HMAC of the line's other fields, by the same key: a flipped byte in a line, or in the
key, is found. The table `erasures` is the ledger's twin: what one of the two lost, the other gives
back (`sql.erasure.apply_ledger`).
"""

import fcntl
import hmac
import json
import logging
import os
import secrets
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
        secret = path.read_bytes()
        if len(secret) != KEY_BYTES:
            raise ErasureKeyLost(str(path), f"has {len(secret)} bytes, not {KEY_BYTES}")
        return cls(secret)

    def hmac_of(self, user_id: str) -> str:
        """64 hexadecimal digits that stand for `user_id`."""
        return hmac.digest(self._secret, user_id.encode(), "sha256").hex()

    def check_of(self, entry: Erased) -> str:
        """32 hexadecimal digits by which a damaged line is found."""
        text = f"{entry.erasure_id}|{entry.user_hmac}|{entry.erased_at_ms}"
        return hmac.digest(self._secret, text.encode(), "sha256").hex()[:32]

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
        fields = {**entry._asdict(), "check": self.key.check_of(entry)}
        line = json.dumps(fields, sort_keys=True) + "\n"
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
        """All sound lines. One that is not whole is left out, and the log says so."""
        entries, damaged = self.examine()
        for place in damaged:
            log.error("%s: not a sound line of the ledger, left out", place)
        return entries

    def examine(self) -> tuple[list[Erased], list[str]]:
        """All sound lines, and where the others are.

        Raises:
            ErasureKeyLost: no line is sound: the key is another.
        """
        try:
            lines = self.path.read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return [], []
        entries: list[Erased] = []
        damaged: list[str] = []
        offset = 0
        for number, line in enumerate(lines, start=1):
            if line.strip():
                entry = self._sound(line)
                if entry is None:
                    damaged.append(f"{self.path}:{number} (byte {offset})")
                else:
                    entries.append(entry)
            offset += len(line)
        if len(damaged) > 1 and not entries:
            key = str(self.path.with_name(KEY_NAME))
            raise ErasureKeyLost(key, f"is not the key of {self.path}: no line of it is sound")
        return entries, damaged

    def _sound(self, line: bytes) -> Erased | None:
        try:
            fields = json.loads(line)
            entry = Erased(
                str(fields["erasure_id"]), str(fields["user_hmac"]), int(fields["erased_at_ms"])
            )
            check = str(fields["check"])
        except (ValueError, KeyError, TypeError):
            return None
        return entry if hmac.compare_digest(check, self.key.check_of(entry)) else None


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
