"""Folded sessions in a replica's memory: a cache of a cache, checked against the log every time.

A session kept here is only a base: the snapshot read says whether the log still agrees with it
(no event after it takes back one at or before it) and gives the tail to fold on top.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ray_jobs.encoders.session import Session


@dataclass(frozen=True, slots=True)
class CachedSession:
    """A session and whose it is: a user erased and come again has another `user_key`.

    `trimmed_seq`: the user's when it was folded (see `sql.sessions.SessionRow`).
    """

    user_key: int
    session: Session
    trimmed_seq: int = 0
    read_at_ms: int = 0
    """By the replica's clock: every event acknowledged before is in it."""

    @property
    def place(self) -> tuple[int, int]:
        """Grows with what the session has seen of the log."""
        return self.trimmed_seq, self.session.user_seq


class SessionCache:
    """Least recently used sessions by (generation, user_id), at most `size`. Thread-safe."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._sessions: OrderedDict[tuple[str, str], CachedSession] = OrderedDict()

    def of_user(self, user_id: str, generation_ids: Iterable[str]) -> dict[str, CachedSession]:
        """generation -> what is kept of this user."""
        with self._lock:
            found = {g: self._sessions.get((g, user_id)) for g in generation_ids}
            for generation_id, cached in found.items():
                if cached is not None:
                    self._sessions.move_to_end((generation_id, user_id))
        return {g: cached for g, cached in found.items() if cached is not None}

    def put(self, generation_id: str, user_id: str, cached: CachedSession) -> None:
        """Keep `cached`, unless a newer one of the same user is kept (a thread was quicker)."""
        key = (generation_id, user_id)
        with self._lock:
            known = self._sessions.get(key)
            if known is None or known.user_key != cached.user_key or known.place <= cached.place:
                self._sessions[key] = cached
            self._sessions.move_to_end(key)
            while len(self._sessions) > self._size:
                self._sessions.popitem(last=False)

    def forget(self, is_gone: Callable[[str], bool]) -> None:
        """Drop the sessions of all users whose id `is_gone` says yes to."""
        with self._lock:
            user_ids = {user_id for _, user_id in self._sessions}
        gone = {user_id for user_id in user_ids if is_gone(user_id)}  # may take long: no lock
        if not gone:
            return
        with self._lock:
            for key in [key for key in self._sessions if key[1] in gone]:
                del self._sessions[key]
