"""The keys that a replica knows: read once a second by a thread, looked up by every request.

A check is a digest and one dict lookup; the database is not on the path. A revoked key is refused
within `MAX_AGE_S`: what is older is read again before the answer (a replica that was paused), and
only where that fails too do known keys go on, until `keys_grace_s`; then nobody is let in.
"""

import asyncio
import hashlib
import ipaddress
import logging
import re
import threading
import time
from collections.abc import Callable, Mapping

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from serve.problems import FieldError, ProblemError, unavailable
from serve.settings import ServeSettings
from sql.engine import read_snapshot
from sql.errors import StoreError
from sql.keys import ApiKey, read_keys

log = logging.getLogger(__name__)

MAX_AGE_S = 5.0
LOOK_TIMEOUT_S = 1.0
MAX_HEADER_BYTES = 300
HOST = re.compile(r"(?P<name>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+)(?::\d{1,5})?")
MAKE_ONE = "moonlark keys make NAME --scope admin"


class NoKeys(Exception):
    """No API key was ever made, and the server may be reached from beyond this machine."""

    def __init__(self, http_host: str | None) -> None:
        self.hint = f"make the first key: `{MAKE_ONE}`; or set MOONLARK_HTTP_HOST=127.0.0.1"
        where = f"listens on {http_host}" if http_host else "may listen beyond the loopback"
        super().__init__(f"there is no API key, and the server {where}. {self.hint}")


def is_loopback(host: str | None) -> bool:
    """Whether `host` names this machine only. None (not known) does not."""
    try:
        return host is not None and ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class KeyRing:
    """The keys in force. Thread-safe. `start` reads them before it returns; a thread goes on."""

    def __init__(
        self, engine: Engine, settings: ServeSettings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._clock = clock
        auto = settings.require_keys == "auto"
        self._may_be_open = auto and is_loopback(settings.http_host)
        self._keys: Mapping[str, ApiKey] = {}
        self._ever = False
        self._read_at_s = 0.0
        self._failing = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="keyring", daemon=True)

    def start(self) -> None:
        """Read the keys, then keep on.

        Raises:
            StoreError: the database does not answer.
        """
        self._read()
        if not self._ever:
            how = "everything is answered" if self.is_open else "nothing is answered"
            log.warning("keys: none; %s until `%s`", how, MAKE_ONE)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()
        self._thread.join(timeout=10)

    @property
    def is_open(self) -> bool:
        """Whether requests are answered without a key: on the loopback, until one was made."""
        return self._may_be_open and not self._ever

    def check_exposure(self) -> None:
        """Refuse to answer nobody: beyond the loopback, without keys, and not told to.

        Raises:
            NoKeys: with the command to run.
        """
        if not (self._ever or self.is_open or self._settings.require_keys == "always"):
            raise NoKeys(self._settings.http_host)

    def look(self) -> None:
        """One round: read the keys, or note that it failed."""
        try:
            self._read()
        except (SQLAlchemyError, StoreError) as error:
            self._failing = True
            log.warning("could not read the keys: %s", error)

    async def check(self, headers: list[tuple[bytes, bytes]], scope: str) -> ApiKey | None:
        """The key that the request carries, None where none is needed.

        Raises:
            ProblemError: 401 for none or an unknown one, 403 where it lacks `scope` (or, where
                none is needed, where Host names another machine), 503 where the keys were not
                read for `keys_grace_s`.
        """
        age_s = self._clock() - self._read_at_s
        if age_s > MAX_AGE_S:
            await self._look_again(age_s)
        if self.is_open:
            _check_host(headers)
            return None
        key = self._keys.get(_presented(headers))
        if key is None:
            raise _unauthorised(headers)
        if not key.allows(scope):
            raise _forbidden(key, scope)
        return key

    async def _look_again(self, age_s: float) -> None:
        if not self._failing:
            try:
                await asyncio.wait_for(asyncio.to_thread(self.look), LOOK_TIMEOUT_S)
            except TimeoutError:
                self._failing = True  # the others need not wait, too
        if self._failing and age_s > self._settings.keys_grace_s:
            raise unavailable(
                "keys cannot be checked",
                f"the database was not reached for {age_s:.0f} s",
                "look at `moonlark status`",
                retry_after_s=5,
            )

    def _read(self) -> None:
        at_s = self._clock()  # before: a key revoked while we read is known only to the next look
        with read_snapshot(self._engine) as conn:
            ever, keys = read_keys(conn)
        if ever and not self._ever and self._read_at_s:
            log.warning("the first key was made: requests need one from now on")
        self._keys = {key.key_sha256: key for key in keys}
        self._ever, self._read_at_s, self._failing = ever, at_s, False

    def _run(self) -> None:
        while not self._stopping.wait(self._settings.keys_interval_s):
            try:
                self.look()
            except Exception:  # a bug of ours; without this thread no key is revoked in time
                log.exception("a look at the keys failed")


def _check_host(headers: list[tuple[bytes, bytes]]) -> None:
    """A page in a browser of this machine may have its own name lead here (DNS rebinding); what
    such a page sends says so in Host."""
    host = b", ".join(value for name, value in headers if name == b"host").decode("latin-1")
    asked = HOST.fullmatch(host)
    if asked is None or not is_loopback(asked["name"].strip("[]")):
        raise ProblemError(
            403,
            "not asked on the loopback",
            "while there are no keys, only requests to this machine's own name are answered",
            [FieldError("host", host, "127.0.0.1, [::1] or localhost")],
            hint=f"make the first key: `{MAKE_ONE}`",
        )


def _presented(headers: list[tuple[bytes, bytes]]) -> str:
    """The digest of the one bearer token, "" for none, two, or something else."""
    values = [value for name, value in headers if name == b"authorization"]
    if len(values) != 1 or len(values[0]) > MAX_HEADER_BYTES:
        return ""
    kind, _, secret = values[0].partition(b" ")
    return hashlib.sha256(secret.strip()).hexdigest() if kind.lower() == b"bearer" else ""


def _unauthorised(headers: list[tuple[bytes, bytes]]) -> ProblemError:
    given = any(name == b"authorization" for name, _ in headers)
    challenge = 'Bearer realm="moonlark"' + (', error="invalid_token"' if given else "")
    return ProblemError(
        401,
        "no valid key",
        "the key is unknown or revoked" if given else "this needs a key",
        hint="send `Authorization: Bearer KEY`; `moonlark keys make` makes one",
        headers={"WWW-Authenticate": challenge},
    )


def _forbidden(key: ApiKey, scope: str) -> ProblemError:
    has = ", ".join(sorted(key.scopes))
    return ProblemError(
        403,
        "wrong scope",
        f"this needs the scope {scope}; the key {key.name!r} has {has}",
        hint=f"`moonlark keys make NAME --scope {scope}` makes one that may",
        headers={
            "WWW-Authenticate": 'Bearer realm="moonlark", error="insufficient_scope", '
            f'scope="{scope}"'
        },
    )
