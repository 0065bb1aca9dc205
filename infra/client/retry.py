"""When a request is sent again, and when not.

Every call of the API may be repeated: events carry an `event_id`, puts and deletes say what shall
be, the rest only reads. So a try is repeated whenever moonlark itself has not given its last word:

| what came back                                       | again?                                   |
|------------------------------------------------------|------------------------------------------|
| no connection, a broken one, no answer in time       | yes                                      |
| any 404 or 5xx, or a 429, without our header         | yes: a proxy said so                     |
| 503 of ours; 429 of ours with Retry-After            | yes, not before Retry-After              |
| 429 of ours without Retry-After                      | no: a daily limit does not pass by itself|
| any other 4xx or 5xx of ours                         | no                                       |

"Our header" is `moonlark-request-id`. HAProxy was measured answering 404 for 26 s while it
restarted (ANCHORS.md: 9,335 answers), so a 404 without it says nothing about the item.
Tries and time are bounded; where Retry-After lies beyond the deadline, the error comes at once.
A try has `try_share` of the call's time: a replica that is frozen, not gone, breaks no connection,
and one try that waits for it to the end leaves none for the others. Calls that are long by nature
(hundreds of items or lists at once, an erasure) have all of it in each try.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx
from tenacity import RetryCallState, Retrying, retry_if_exception_type

from infra.client.errors import MoonlarkError

OUR_HEADER = "moonlark-request-id"


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Bounds of one call. Waits double from `first_wait_s` to `longest_wait_s`, with jitter."""

    max_tries: int = 100
    """Time ends a call first; a proxy that is being restarted costs a minute some forty tries."""
    first_wait_s: float = 0.1
    longest_wait_s: float = 2.0
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    jitter: Callable[[], float] = random.random
    """In [0, 1): a wait is shortened by up to half, so that clients do not return in step."""
    try_share: float = 0.3
    """Of the call's time, for one try."""


class TryAgain(Exception):
    """One try failed, another may succeed; `error` is raised if none does."""

    def __init__(self, error: MoonlarkError, retry_after_s: float | None = None) -> None:
        super().__init__(str(error))
        self.error, self.retry_after_s = error, retry_after_s


def is_retryable(response: httpx.Response) -> bool:
    """The table above, for an answer that came."""
    status = response.status_code
    if OUR_HEADER not in response.headers:
        return status in (404, 429) or status >= 500
    return status == 503 or (status == 429 and "Retry-After" in response.headers)


def retry_after_s(response: httpx.Response) -> float | None:
    """Seconds that the answer asks to wait, from either form of Retry-After (RFC 9110, 10.2.3)."""
    value = response.headers.get("Retry-After", "").strip()
    if not value:
        return None
    if value.isdigit():
        return float(value[:9])
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, (at - datetime.now(UTC)).total_seconds())


def call_with_retries(
    policy: RetryPolicy, timeout_s: float, one_try: Callable[[int, float], httpx.Response]
) -> httpx.Response:
    """Call `one_try(number, seconds_left)` until it returns, at most for `timeout_s` in all.

    Raises:
        MoonlarkError: the last try's, when tries or time have run out.
    """
    deadline = policy.clock() + timeout_s

    def wait_s(state: RetryCallState) -> float:
        doubled = policy.first_wait_s * 2.0 ** min(state.attempt_number - 1, 30)
        own = min(policy.longest_wait_s, doubled) * (1 - policy.jitter() / 2)
        return max(own, _failure(state).retry_after_s or 0.0)

    def stop(state: RetryCallState) -> bool:
        too_late = policy.clock() + state.upcoming_sleep >= deadline
        return too_late or state.attempt_number >= policy.max_tries

    number = 0

    def attempt() -> httpx.Response:
        nonlocal number
        number += 1
        return one_try(number, deadline - policy.clock())

    retrying = Retrying(
        retry=retry_if_exception_type(TryAgain),
        wait=wait_s,
        stop=stop,
        sleep=policy.sleep,
        reraise=True,
    )
    try:
        return retrying(attempt)
    except TryAgain as last:
        raise last.error from last.__cause__


def _failure(state: RetryCallState) -> TryAgain:
    error = state.outcome.exception() if state.outcome else None
    assert isinstance(error, TryAgain)  # tenacity waits after nothing else
    return error
