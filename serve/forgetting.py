"""Replicas forget erased users: the sessions kept in memory go too, wherever the erasure was asked.

The replica that erased forgets at once, the others within `INTERVAL_S` of it: they look for new
rows of `erasures`, which name a user by HMAC, and compare the ids they hold. For `REPEAT_MS` they
look again for the same ones, since an answer that was being made meanwhile may have kept one.

They also carry out what the ledger names and the database does not: an erasure whose process died,
or whose commit failed, in between. Left until the next start, it would take with it what the user
did since.
"""

import logging
from collections.abc import Callable, Collection

from sqlalchemy import Engine

from serve.periodic import Periodic
from serve.session_cache import SessionCache
from sql.engine import read_snapshot
from sql.erasure import apply_ledger
from sql.erasure_ledger import Ledger
from sql.erasure_receipts import erased_since

log = logging.getLogger(__name__)

INTERVAL_S = 5.0
REPEAT_MS = 120_000


class Forgetting:
    """A thread that looks for erasures. `ledger` is the artifact root's."""

    def __init__(
        self, engine: Engine, ledger: Ledger, cache: SessionCache, now_ms: Callable[[], int]
    ) -> None:
        self.ledger = ledger
        self._engine, self._cache, self._now_ms = engine, cache, now_ms
        self._ledger_bytes, self._applied_bytes = ledger.size(), 0
        self._rounds = Periodic("forgetting", INTERVAL_S, self._finish_and_look)

    def start(self) -> None:
        """Begin to look."""
        self._rounds.start()

    def stop(self) -> None:
        """End the thread."""
        self._rounds.stop()

    def forget(self, hmacs: Collection[str]) -> None:
        """Drop what is kept of those users."""
        if hmacs:
            self._cache.forget(lambda user_id: self.ledger.key.hmac_of(user_id) in hmacs)

    def look(self) -> None:
        """Forget whoever was erased lately."""
        with read_snapshot(self._engine) as conn:
            hmacs = erased_since(conn, self._now_ms() - REPEAT_MS)
        self.forget(hmacs)

    def finish(self) -> int:
        """Apply the ledger once it did not grow between two calls: what is younger may just be
        on its way. Returns how many users were erased."""
        size, before = self.ledger.size(), self._ledger_bytes
        self._ledger_bytes = size
        if size != before or size == self._applied_bytes:
            return 0
        erased = apply_ledger(self._engine, self.ledger)
        self._applied_bytes = size
        return erased

    def _finish_and_look(self) -> None:
        self.finish()
        self.look()
