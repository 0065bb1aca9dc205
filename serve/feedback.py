"""Group commit: concurrent event posts become one transaction, each caller gets its own answer.

Stands between the gateway and `sql.events.append`. An fdatasync costs a millisecond whether it
carries one event or a thousand (ANCHORS: 830/s alone, 9,500/s by 64), so posts that arrive within
`group_commit_ms` share one; one that comes alone, after one that came alone, is not held up. A post
is acknowledged only after its transaction committed.
"""

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Engine

from serve.counts import Counts
from serve.problems import FieldError, ProblemError, unavailable
from serve.rates import Rates
from serve.settings import ServeSettings
from sql.erasure_ledger import ErasureKey
from sql.errors import StoreBusy, StoreUnavailable
from sql.events import Appended, NewEvent, Rejected, append

log = logging.getLogger(__name__)

Outcome = list[Appended] | Rejected

Post = tuple[Sequence[NewEvent], bool]
"""Events of one request, and whether unknown items are kept."""


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    events: Sequence[NewEvent]
    keep_unknown_items: bool
    done: asyncio.Future[Outcome]
    came_s: float = field(default_factory=time.perf_counter)


class Feedback:
    """The one writer of a replica's events. Make it on the event loop that posts arrive on."""

    def __init__(
        self,
        engine: Engine,
        settings: ServeSettings,
        now_ms: Callable[[], int],
        erasures: ErasureKey | None = None,
        counts: Counts | None = None,
    ) -> None:
        self._engine = engine
        self._counts = counts or Counts()
        self._erasures = erasures
        self._settings = settings
        self._now_ms = now_ms
        self._rates = Rates(settings.tracked_users)
        self._waiting: list[_Waiting] = []
        self._waiting_events = 0
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to commit groups."""
        self._task = asyncio.create_task(self._run(), name="feedback")

    async def stop(self) -> None:
        """End the committing task; posts that still wait are answered 503."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for waiting in self._waiting:
            if not waiting.done.done():
                waiting.done.set_exception(_not_stored("the replica is stopping"))
        self._waiting.clear()

    async def post(self, events: Sequence[NewEvent], *, keep_unknown_items: bool) -> Outcome:
        """Append `events` (all of them or none); returns once they are durable.

        Raises:
            ProblemError: 503 when the queue is full, or the database did not take the events, or
                not in time; 429 when one user sent too many in the last minute.
        """
        if self._task is None or self._task.done():
            raise _not_stored("the replica is stopping")
        if self._waiting_events + len(events) > self._settings.feedback_queue:
            self._counts.post("failed", len(events))
            raise _not_stored(f"{self._waiting_events} events already wait for a transaction")
        self._count(events)
        waiting = _Waiting(events, keep_unknown_items, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._waiting_events += len(events)
        self._wake.set()
        try:
            return await asyncio.wait_for(waiting.done, self._settings.commit_timeout_s)
        except TimeoutError:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
                self._waiting_events -= len(events)
                self._counts.post("failed", len(events))  # what is being committed counts there
            waited = f"no transaction ended within {self._settings.commit_timeout_s:g} s"
            raise _not_stored(f"{waited}; whether it was stored is not known") from None

    def _count(self, events: Sequence[NewEvent]) -> None:
        per_minute = self._settings.user_events_per_minute
        refused = self._rates.take(Counter(event.user_id for event in events), per_minute)
        if refused is not None:
            accepted = f"a user with at most {per_minute} events a minute"
            raise ProblemError(
                429,
                "too many events of one user",
                "nothing of this request was stored",
                [FieldError("user_id", refused[0], accepted)],
                hint="send the same events again with the same event_id, after Retry-After",
                retry_after_s=math.ceil(refused[1]),
            )

    async def _run(self) -> None:
        alone = True
        while True:
            await self._wake.wait()
            # Where the last post was alone, so is this one most likely: nobody is worth a wait.
            await asyncio.sleep(0 if alone else self._settings.group_commit_ms / 1000)
            group = self._take_group()
            alone = len(group) == 1
            if not self._waiting:
                self._wake.clear()
            commit = asyncio.ensure_future(self._commit(group))
            try:
                await asyncio.shield(commit)
            except asyncio.CancelledError:
                await commit  # its callers are told what became of their events
                raise

    def _take_group(self) -> list[_Waiting]:
        group: list[_Waiting] = []
        size = 0
        while self._waiting:
            size += len(self._waiting[0].events)
            if group and size > self._settings.group_commit_events:
                break
            group.append(self._waiting.pop(0))
        self._waiting_events -= sum(len(w.events) for w in group)
        return group

    async def _commit(self, group: list[_Waiting]) -> None:
        posts = [(w.events, w.keep_unknown_items) for w in group]
        outcomes = await asyncio.to_thread(
            append_posts, self._engine, posts, self._now_ms, self._erasures
        )
        for waiting, outcome in zip(group, outcomes, strict=True):
            self._tell(waiting, outcome)
            if waiting.done.done():  # the client may have gone away
                continue
            if isinstance(outcome, Exception):
                why = f"the database refused: {type(outcome).__name__}"
                waiting.done.set_exception(_not_stored(why))
            else:
                waiting.done.set_result(outcome)

    def _tell(self, waiting: _Waiting, outcome: Outcome | Exception) -> None:
        counts, events = self._counts, len(waiting.events)
        if isinstance(outcome, Exception):
            counts.post("failed", events)
        elif isinstance(outcome, Rejected):
            counts.post("refused", events)
        else:
            known = sum(event.duplicate for event in outcome)
            counts.post("stored", events - known)
            counts.post("duplicate", known)
            if events > known:
                counts.visible(time.perf_counter() - waiting.came_s, self._now_ms())


def append_posts(
    engine: Engine,
    posts: Sequence[Post],
    now_ms: Callable[[], int],
    erasures: ErasureKey | None = None,
) -> list[Outcome | Exception]:
    """Append all posts in one transaction; if that fails, each alone.

    So nobody pays for another's failure. An exception is the outcome of a post that is not known
    to be stored.
    """
    try:
        return list(
            append(
                engine,
                [events for events, _ in posts],
                received_at_ms=now_ms(),
                keep_unknown_items=[keep for _, keep in posts],
                erasures=erasures,
            )
        )
    except Exception as error:  # the one writer outlives also a bug of ours
        gone = isinstance(error, StoreUnavailable) and not isinstance(error, StoreBusy)
        if gone:  # it is nobody's fault among these: to try each alone would only take longer
            log.error("%d posts were not stored: %s", len(posts), error)
            return [error for _ in posts]
        if len(posts) == 1:
            log.error("a post of %d events was not stored", len(posts[0][0]), exc_info=error)
            return [error]
        log.warning("a group of %d posts failed, each is tried alone: %s", len(posts), error)
        return [
            outcome for post in posts for outcome in append_posts(engine, [post], now_ms, erasures)
        ]


def _not_stored(why: str) -> ProblemError:
    return unavailable(
        "events were not stored",
        f"nothing of this request was acknowledged: {why}",
        "send the same events again with the same event_id: a retry is harmless",
    )
