"""A user's list where the generation has priors: candidates of every source, weighed together.

    nearest to the user vector (retrieval)  -+
    most active, newest, neighbours         -+-> evidence -> fusion -> scores with their parts

The sources and the weights are of `ray_jobs.ranking`, which the night replays.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ray_jobs.encoders.user_encoder import unit_rows
from ray_jobs.ranking.activity import Activity
from ray_jobs.ranking.candidates import Candidates
from ray_jobs.ranking.fusion import Evidence
from ray_jobs.ranking.lookup import union_of_ascending
from ray_jobs.ranking.neighbours import Near
from ray_jobs.ranking.priors import Priors
from ray_jobs.ranking.shown import Shown
from ray_jobs.ranking.sources import POOL, RECENT_ITEMS, Pools, candidates, most_active
from ray_jobs.shards.search import live_dots_of, live_vectors_of
from serve.trending import REFRESH_MS, Trending
from serve.user_state import UserState

AHEAD_S = 0.1
"""How often is looked whether the next pools are due (`FusedLists.make_ready`)."""

EARLY_MS = 400
"""So much before they are too old the next pools are made, or twice as long as the last took."""

EARLIEST_MS = 800
"""However long they took."""

REST_MS = 5_000
"""After it could not be made: the database does not answer."""

AT_HAND_MS = 50
"""So long pools must still hold for a list that must not make any: many times what it takes."""

KEPT_POOLS = 4
"""Of generation and catalog: what the requests of a second share."""

NO_ORDINALS = np.zeros(0, np.int64)

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class _Now:
    """Activity since the night, and the pools that it makes."""

    live: Activity
    pools: Pools
    is_quiet: bool


@dataclass(frozen=True, slots=True)
class _Ready:
    """Made ahead, for lists of these moments, asked for at them."""

    key: tuple[str, int]
    moments_ms: range
    now: _Now

    def is_for(self, key: tuple[str, int], asked_ms: int, as_of_ms: int) -> bool:
        moments_ms = self.moments_ms
        return self.key == key and asked_ms in moments_ms and as_of_ms in moments_ms


class FusedList(NamedTuple):
    """Scored candidates, and whether the weights of a quiet month made the scores."""

    found: Candidates
    is_quiet: bool


class FusedLists:
    """Scores the candidates of users' lists. Thread-safe."""

    def __init__(self, trending: Trending) -> None:
        self._trending = trending
        self._making = threading.Lock()
        """Pools are made by one thread at a time; whoever needs them waits for it."""
        self._kept: OrderedDict[tuple[str, int], _Now] = OrderedDict()
        self._ready: _Ready | None = None
        self._rest_ms = range(0)
        """In these moments nothing is to be made ahead."""

    def make_ready(self, nobody: Callable[[], UserState], now_ms: int) -> None:
        """Make what the lists of the next second share, if what is there is soon too old, whether
        lists are asked for or not: a request that had to make it waited 50 to 300 ms, and those
        behind it, too. `nobody`: reads the state of no user."""
        if now_ms in self._rest_ms:
            return
        self._rest_ms = range(now_ms, now_ms + REST_MS)
        state = nobody()
        if state.as_of_ms is not None:
            return
        if (priors := state.generation.priors) is None:  # the next generation may have some
            self._rest_ms = range(now_ms, now_ms + REFRESH_MS)
            return
        live = self._trending.activity_since(priors.fusion.activity_hour, now_ms, REFRESH_MS)
        with self._making:
            now = self._made(state, priors, live, now_ms)
            _ = now.pools.front, now.pools.newest_first
            self._ready = _Ready(_key(state), range(now_ms, now_ms + REFRESH_MS), now)
        took_ms = self._trending.now_ms() - now_ms
        early_ms = min(max(EARLY_MS, 2 * took_ms), EARLIEST_MS)
        self._rest_ms = range(now_ms, now_ms + REFRESH_MS - early_ms)

    def is_at_hand(self, state: UserState, as_of_ms: int) -> bool:
        """Whether a list of that moment finds its pools made, now and while it is made."""
        until_ms = self._trending.now_ms() + AT_HAND_MS
        made = self._readied(_key(state), until_ms, as_of_ms)
        return made is not None or state.generation.priors is None

    def of_known(
        self,
        state: UserState,
        priors: Priors,
        vector_D: NDArray[np.float32],
        nearest: Candidates,
        *,
        eligible: Mask | None,
        hidden: Ints,
        as_of_ms: int,
    ) -> FusedList:
        """The list's candidates for a user with a vector: `nearest`, and those of other sources.

        `hidden` is sorted.
        """
        assert state.session is not None, "a vector has a session"
        now = self._now(state, priors, as_of_ms)
        newest_first = state.session.recent[::-1].copy()
        near, delta = priors.neighbours.near(newest_first), state.view.delta
        shown = Shown(delta.live_S, hidden, eligible)
        found = candidates(now.pools, near, nearest.ordinals, as_of_ms, shown)
        _, recent_RD = live_vectors_of(state.shards, delta, newest_first[:RECENT_ITEMS])
        queries_QD = np.empty((2, len(vector_D)), np.float32)
        # Of unit length their sum is their mean; what has no vector adds 0.
        queries_QD[0], queries_QD[1] = vector_D, unit_rows(np.add.reduce(recent_RD))
        there, dots_NQ = live_dots_of(state.shards, delta, found, queries_QD)
        if state.shards.missing:  # without its vector an item would be scored as if it were far
            found, dots_NQ = found[there], dots_NQ[there]
        evidence = Evidence(
            cosines=dots_NQ[:, 0].copy(),
            activity=_activity(priors, now, found, as_of_ms),
            published_ms=state.view.items.published_ms(found),
            neighbours=near.at(found),
            history=priors.neighbours.whole.says(state.session.seen, found),
            recent=dots_NQ[:, 1].copy(),
        )
        fusion, quiet = priors.fusion, now.is_quiet
        scored = fusion.score(found, evidence, as_of_ms, is_known=True, is_quiet=quiet)
        return FusedList(scored, quiet)

    def of_new(
        self,
        state: UserState,
        priors: Priors,
        *,
        eligible: Mask,
        hidden: Ints,
        also: Ints | None,
        wanted: int,
        as_of_ms: int,
    ) -> FusedList:
        """The list's candidates for a user without a vector: of the pools, and `also` these.

        Everything that is eligible where `also` is None (any of it may be lifted to the top), and
        where there would be fewer than `wanted`.
        """
        now = self._now(state, priors, as_of_ms)
        shown = Shown(None, hidden, eligible)
        nobody = Near.nobody()
        found = candidates(now.pools, nobody, NO_ORDINALS, as_of_ms, shown)
        if also is None or len(found) < wanted:
            found = np.flatnonzero(eligible)
        else:
            found = np.union1d(found, also)
        zero = np.zeros(len(found), np.float32)
        evidence = Evidence(
            cosines=zero,
            activity=_activity(priors, now, found, as_of_ms),
            published_ms=state.view.items.published_ms(found),
            neighbours=np.zeros((len(found), nobody.sums.shape[1]), np.float32),
            history=np.zeros((len(found), 2), np.float32),
            recent=zero,
        )
        fusion, quiet = priors.fusion, now.is_quiet
        scored = fusion.score(found, evidence, as_of_ms, is_known=False, is_quiet=quiet)
        return FusedList(scored, quiet)

    def _now(self, state: UserState, priors: Priors, as_of_ms: int) -> _Now:
        """Made again when the catalog changed, or activity was read again."""
        asked_ms = self._trending.now_ms()
        key = _key(state)
        if (found := self._readied(key, asked_ms, as_of_ms)) is not None:
            return found
        live = self._trending.activity_since(priors.fusion.activity_hour, as_of_ms)
        if (found := self._kept_of(key, live)) is not None:
            return found
        # One makes it: several at once, of one interpreter, would each take as long as all.
        with self._making:
            found = self._readied(key, asked_ms, as_of_ms) or self._kept_of(key, live)
            if found is None:
                found = self._kept[key] = self._made(state, priors, live, as_of_ms)
                while len(self._kept) > KEPT_POOLS:
                    self._kept.popitem(last=False)
        return found

    def _readied(self, key: tuple[str, int], asked_ms: int, as_of_ms: int) -> _Now | None:
        ready = self._ready
        return ready.now if ready is not None and ready.is_for(key, asked_ms, as_of_ms) else None

    def _kept_of(self, key: tuple[str, int], live: Activity) -> _Now | None:
        kept = self._kept.get(key)
        return kept if kept is not None and kept.live is live else None

    @staticmethod
    def _made(state: UserState, priors: Priors, live: Activity, as_of_ms: int) -> _Now:
        month = priors.activity.month(as_of_ms) + live.month(as_of_ms)
        pools = _pools(state, priors, live, as_of_ms)
        return _Now(live, pools, priors.fusion.is_quiet(month))


def _key(state: UserState) -> tuple[str, int]:
    return state.generation.generation_id, state.catalog_seq


def _pools(state: UserState, priors: Priors, live: Activity, as_of_ms: int) -> Pools:
    items = state.view.items
    acted_on = union_of_ascending(priors.most_active, live.ordinals)
    sums = priors.activity.at(acted_on, as_of_ms) + live.at(acted_on, as_of_ms)
    # A list looks at each of the pool, and a busy day has acted on a hundred thousand.
    active = most_active(acted_on, sums, POOL)
    newest = items.newest(as_of_ms, POOL)
    return Pools(
        active,
        sums[np.searchsorted(acted_on, active)],
        newest,
        items.published_ms(newest),
    )


def _activity(priors: Priors, now: _Now, ordinals: Ints, as_of_ms: int) -> NDArray[np.float32]:
    sums = priors.activity.at(ordinals, as_of_ms)
    now.live.add_at(ordinals, as_of_ms, sums)
    return sums
