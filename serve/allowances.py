"""What a key and a user may ask of one replica in a minute; beyond it 429 with Retry-After.

Events of a user are counted where they are gathered (`serve.feedback`).
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence

from serve.problems import FieldError, ProblemError
from serve.rates import Rates
from serve.settings import ServeSettings
from sql.keys import MAX_KEYS, ApiKey

WAIT = "wait as long as Retry-After says"


class Allowances:
    """The counts of one replica, in memory."""

    def __init__(
        self, settings: ServeSettings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._requests = Rates(MAX_KEYS, clock)
        self._lists = Rates(settings.tracked_users, clock)

    def take_request(self, key: ApiKey | None) -> None:
        """Count a request of `key`; nothing without one.

        Raises:
            ProblemError: 429.
        """
        if key is not None:
            self._take_requests(key, 1)

    def take_lists(self, key: ApiKey | None, user_ids: Sequence[str]) -> None:
        """Count a list for each of `user_ids`, and what they are more than the one request in
        which `key` asks for them: a post for n users is n requests.

        Raises:
            ProblemError: 429; 422 where the key may never ask for so many at once.
        """
        if key is not None and len(user_ids) > self._per_minute(key):
            accepted = f"at most {self._per_minute(key)} of them with the key {key.name!r}"
            raise ProblemError(
                422,
                "too many users for this key",
                "each counts as a request",
                [FieldError("users", len(user_ids), accepted)],
            )
        # Users first: one who asks too much must not use up the key of all.
        per_minute = self._settings.user_lists_per_minute
        counted = {user_ids[0]: 1} if len(user_ids) == 1 else Counter(user_ids)
        refused = self._lists.take(counted, per_minute)
        if refused is not None:
            accepted = f"a user with at most {per_minute} lists a minute"
            raise ProblemError(
                429,
                "too many lists of one user",
                "no list was made",
                [FieldError("user_id", refused[0], accepted)],
                hint=WAIT,
                retry_after_s=math.ceil(refused[1]),
            )
        if key is not None and len(user_ids) > 1:
            self._take_requests(key, len(user_ids) - 1, already=1)

    def _take_requests(self, key: ApiKey, requests: int, already: int = 0) -> None:
        per_minute = self._per_minute(key)
        refused = self._requests.take({key.key_sha256: requests}, per_minute)
        if refused is None:
            return
        # Who comes back is counted as that one request before the others are: it has to fit, too.
        again_s = already * 60.0 / per_minute
        raise ProblemError(
            429,
            "too many requests",
            f"the key {key.name!r} may send {per_minute} requests a minute to one replica",
            hint=WAIT,
            retry_after_s=math.ceil(refused[1] + again_s),
        )

    def _per_minute(self, key: ApiKey) -> int:
        return key.requests_per_minute or self._settings.key_requests_per_minute
