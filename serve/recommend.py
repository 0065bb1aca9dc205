"""Lists: from a session, from an item, from a text. Search the shards and the delta, re-rank.

Runs in a thread of the replica, or on its event loop (`Recommender.recommend_at_once`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine

from ray_jobs.ranking.candidates import Candidates, candidates_wanted
from ray_jobs.ranking.diversity import POOL, diverse_order
from ray_jobs.ranking.lookup import unique_sorted
from ray_jobs.ranking.rerank import Pin, rerank, weighed
from ray_jobs.shards.search import live_vectors_of
from serve.anonymous import InlineLog
from serve.explain import past_of, read_past
from serve.fused import FusedList, FusedLists
from serve.lists import (
    BASE_PARTS,
    Basis,
    ItemList,
    ListQuery,
    TrendingList,
    explain,
    listed,
    recorded,
    shown,
)
from serve.policies import NO_ORDINALS, Boosts, Policies, PolicySet
from serve.problems import ProblemError, not_found
from serve.retrieval import candidates_by_vector
from serve.trending import Trending
from serve.user_state import UserState, UserStates
from serve.write_behind import WriteBehind
from sql import catalog
from sql.engine import read_snapshot

PERSONAL_WEIGHT = 0.3
"""Share of the user's taste in a personalised search; the text decides, the taste orders ties."""

AT_ONCE_K = 100
"""The longest list that is made on the event loop."""

TEXT_CANDIDATES = 500
"""Candidates of a text search, found by projected vectors and ordered by BERT's own cosine."""


@dataclass(frozen=True, slots=True)
class _Allowed:
    """What a list may show: `eligible` is a mask over ordinals (all when None). And what editors
    say of it: only users' lists have boosts and pins."""

    eligible: NDArray[np.bool_] | None
    hidden: NDArray[np.int64]
    boosts: Boosts | None = None
    pins: Sequence[Pin] = ()


class Recommender:
    """Makes lists. Thread-safe."""

    def __init__(
        self,
        engine: Engine,
        states: UserStates,
        trending: Trending,
        write_behind: WriteBehind,
        now_ms: Callable[[], int],
        policies: Policies,
    ) -> None:
        self._engine = engine
        self._states = states
        self._trending = trending
        self._write_behind = write_behind
        self._now_ms = now_ms
        self._policies = policies
        self._fused = FusedLists(trending)

    def recommend(self, user_id: str, query: ListQuery) -> ItemList:
        """The user's list: by cosine to the user vector, or what is popular for a new user."""
        answer = self._list(self._states.read(user_id), query)
        if query.explain:
            explain(answer, read_past(self._engine, answer.state))
        return answer

    def recommend_at_once(self, user_id: str, query: ListQuery) -> ItemList | None:
        """`recommend`, where all that it needs is at hand: some two milliseconds, of which another
        thread would cost a sixth, and longer waits for all. None where anything may take longer: a
        user without a session, a catalog or policies to catch up with, pools to be made.

        For a query of a length alone, of up to `AT_ONCE_K`, where the database is a file and the
        shards are held here: it blocks whoever calls.
        """
        state = self._states.read_at_once(user_id)
        if state is None or state.vector is None:
            return None
        as_of_ms = self._as_of_ms(state, query)
        is_at_hand = self._fused.is_at_hand(state, as_of_ms) and self._policies.are_at_hand(
            *(state.policy_seq, state.generation.generation_id, state.view, as_of_ms)
        )
        return self._list(state, query) if is_at_hand else None

    def make_ready(self) -> None:
        """See `FusedLists.make_ready`; called beside the requests."""
        if self._states.can_answer:
            self._fused.make_ready(lambda: self._states.read(None), self._now_ms())

    def expose(self, answer: ItemList, query: ListQuery, request_id: str) -> None:
        """Record what is shown: a user's list, once it is the one that is sent."""
        self._write_behind.expose(recorded(answer, query, request_id, at_ms=self._now_ms()))

    def recommend_for_events(self, log: InlineLog, query: ListQuery) -> ItemList:
        """The list of a user whose whole log is `log`. Nothing of it is kept, no exposure either:
        that would keep what these events led to."""
        answer = self._list(self._states.of_events(log.events, log.text_vectors), query)
        if query.explain:
            generation = answer.state.generation
            texts = log.text_vectors.get(generation.encoder_id, {})
            explain(answer, past_of(self._engine, generation, log.events, texts))
        return answer

    def _list(self, state: UserState, query: ListQuery) -> ItemList:
        as_of_ms = self._as_of_ms(state, query)
        policies = self._policies_of(state)
        vector_D = state.vector
        allowed = self._allowed(state, query, policies, as_of_ms, filtered=vector_D is None)
        allowed = self._by_editors(state, query, policies, as_of_ms, allowed)
        basis: Basis = "popularity" if vector_D is None else "session"
        if vector_D is None:
            found, is_quiet = self._for_new(state, query, allowed, as_of_ms)
        else:
            found, is_quiet = self._for_known(state, vector_D, query, allowed, as_of_ms)
        boosts = None if allowed.boosts is None else allowed.boosts.totals_S
        scored = weighed(found, name=BASE_PARTS[basis], boosts=boosts)
        first = self._diverse(state, scored, allowed, query.diversity)
        ranked = rerank_page(scored, query, allowed, first)
        return listed(state, basis, ranked, as_of_ms, policies.policy_seq, is_quiet=is_quiet)

    @staticmethod
    def _diverse(
        state: UserState, scored: Candidates, allowed: _Allowed, diversity: float
    ) -> NDArray[np.int64] | None:
        """What comes first, and in which order; None: as the scores say."""
        if not diversity:
            return None
        best = rerank(scored, eligible=allowed.eligible, excluded=allowed.hidden, k=POOL)
        _, vectors_ND = live_vectors_of(state.shards, state.view.delta, best.ordinals)
        return best.ordinals[diverse_order(best.scores, vectors_ND, diversity)]

    def _for_known(
        self,
        state: UserState,
        vector_D: NDArray[np.float32],
        query: ListQuery,
        allowed: _Allowed,
        as_of_ms: int,
    ) -> FusedList:
        """Of a user with a vector: the nearest, and where the night learned to weigh them what is
        active, new or goes with the user's last items."""
        nearest, priors = self._nearest(state, vector_D, query, allowed), state.generation.priors
        if priors is None:
            return FusedList(nearest, is_quiet=False)
        return self._fused.of_known(
            *(state, priors, vector_D, nearest),
            eligible=allowed.eligible,
            hidden=allowed.hidden,
            as_of_ms=as_of_ms,
        )

    def _for_new(
        self, state: UserState, query: ListQuery, allowed: _Allowed, as_of_ms: int
    ) -> FusedList:
        """Of a user without a vector: by what needs no user."""
        items, priors, boosts = state.view.items, state.generation.priors, allowed.boosts
        assert allowed.eligible is not None, "it was asked for"
        if priors is None:
            everything = np.arange(items.ordinal_span, dtype=np.int64)
            scores = self._trending.scores(items, as_of_ms)
            return FusedList(Candidates(scores, everything), is_quiet=False)
        lifted = np.array([pin.ordinal for pin in allowed.pins], np.int64)
        if boosts is not None:
            lifted = np.union1d(lifted, boosts.direct)
        return self._fused.of_new(
            *(state, priors),
            eligible=allowed.eligible,
            hidden=allowed.hidden,
            also=lifted if boosts is None or boosts.groups_S is None else None,
            wanted=candidates_wanted(query.k, query.offset, len(allowed.pins)),
            as_of_ms=as_of_ms,
        )

    def similar(self, item_id: str, query: ListQuery) -> ItemList:
        """Items nearest to an item's vector, without itself. The item may be withdrawn.

        Raises:
            ProblemError: 404 for an unknown item, 409 for one that has no vector yet.
        """
        with read_snapshot(self._engine) as conn:
            item = catalog.resolve_items(conn, [item_id]).get(item_id)
        if item is None:
            raise not_found("item", item_id)
        state = self._states.read(None)
        # As it is in the view: it may have been edited since it was looked up, or put again.
        shown = state.view.items.get(item.ordinal)
        text_digest = item.text_digest if shown is None else shown.text_digest
        vector_D = state.generation.item_vector(self._engine, item.ordinal, text_digest)
        if vector_D is None:
            raise ProblemError(
                409,
                "the item has no vector yet",
                f"item {item_id!r} was put without a vector",
                hint="put it again while the text encoder answers, or wait for the night",
            )
        as_of_ms = self._as_of_ms(state, query)
        policies = self._policies_of(state)
        itself = state.view.items.with_returned(np.array([item.ordinal], np.int64))
        allowed = self._allowed(state, query, policies, as_of_ms, hidden=itself)
        ranked = rerank_page(self._nearest(state, vector_D, query, allowed), query, allowed)
        return listed(state, "item", ranked, as_of_ms)

    def trending(self, query: ListQuery, hours: int) -> TrendingList:
        """What was acted on in these hours, the most unusual first (`ray_jobs.ranking.trend`)."""
        state = self._states.read(None)
        as_of_ms = self._as_of_ms(state, query)
        items = state.view.items
        trends = self._trending.trends(items, as_of_ms, hours)
        active = np.flatnonzero(trends.activity > 0)
        found = Candidates(trends.scores[active], active)
        eligible = items.matching(query.category, query.attributes)
        ranked = rerank(found, eligible=eligible, k=query.k, offset=query.offset)
        return TrendingList(state, shown(state, ranked), as_of_ms, trends.age_ms)

    def search_text(
        self, bert_E: NDArray[np.float32], user_id: str | None, query: ListQuery
    ) -> ItemList:
        """Items for a text: candidates by the projected vector, order by BERT's own cosine.

        With a user, `PERSONAL_WEIGHT` of the score is the cosine to the user vector.
        """
        state = self._states.read(user_id)
        generation = state.generation
        query_D = generation.encoder.text_vectors(bert_E[None, :])[0]
        as_of_ms = self._as_of_ms(state, query)
        policies = self._policies_of(state)
        allowed = self._allowed(state, query, policies, as_of_ms)
        found = self._nearest(state, query_D, query, allowed, at_least=TEXT_CANDIDATES)
        scores = self._text_scores(state, bert_E, found)
        taste_D = state.vector
        if taste_D is not None and len(found):
            _, vectors_ND = live_vectors_of(state.shards, state.view.delta, found.ordinals)
            scores = (1 - PERSONAL_WEIGHT) * scores + PERSONAL_WEIGHT * (vectors_ND @ taste_D)
        rescored = Candidates(scores.astype(np.float32), found.ordinals)
        ranked = rerank_page(rescored, query, allowed)
        return listed(state, "text", ranked, as_of_ms)

    def _as_of_ms(self, state: UserState, query: ListQuery) -> int:
        """The moment that the list is of. Without the database it is the one up to which the state
        reflects what was acknowledged: so the answer tells its age."""
        asked_ms = self._now_ms() if query.as_of_ms is None else query.as_of_ms
        return asked_ms if state.as_of_ms is None else min(asked_ms, state.as_of_ms)

    def _policies_of(self, state: UserState) -> PolicySet:
        if state.as_of_ms is not None:
            return self._policies.held(state.policy_seq)
        return self._policies.at(state.policy_seq, state.catalog_seq)

    def _text_scores(
        self, state: UserState, bert_E: NDArray[np.float32], found: Candidates
    ) -> NDArray[np.float32]:
        """Cosine of the BERT vectors; the projected one where an item's text has none."""
        items = state.view.items.get_many(found.ordinals)
        digests = [item.text_digest for item in items if item is not None]
        vectors = state.generation.text_vectors(self._engine, digests)
        scores = found.scores.copy()
        for row, item in enumerate(items):
            vector = vectors.get(item.text_digest) if item is not None else None
            if vector is not None:
                scores[row] = float(vector @ bert_E)
        return scores

    def _allowed(
        self,
        state: UserState,
        query: ListQuery,
        policies: PolicySet,
        as_of_ms: int,
        *,
        hidden: NDArray[np.int64] = NO_ORDINALS,
        filtered: bool = False,
    ) -> _Allowed:
        """`hidden`: never shown, beside what was disliked, hidden, named, and seen if so asked.

        `filtered`: make the mask of live items also where no filter asks for one.
        """
        parts = [state.excluded, hidden]
        if query.exclude_seen and state.session is not None:
            items = state.view.items
            parts.append(policies.hidden_as_seen(state.session, items, as_of_ms))
        if query.exclude:
            with read_snapshot(self._engine) as conn:
                named = catalog.resolve_items(conn, list(query.exclude))
            parts.append(np.array([ref.ordinal for ref in named.values()], np.int64))
        eligible = None
        if filtered or query.category is not None or query.attributes:
            eligible = state.view.items.matching(query.category, query.attributes)
        some = [part for part in parts if len(part)]
        if len(some) == 1 and (some[0][1:] > some[0][:-1]).all():  # of most users: what was seen
            return _Allowed(eligible, some[0])
        return _Allowed(eligible, unique_sorted(np.concatenate(parts)))

    def _by_editors(
        self,
        state: UserState,
        query: ListQuery,
        policies: PolicySet,
        as_of_ms: int,
        allowed: _Allowed,
    ) -> _Allowed:
        """With the boosts and pins in force."""
        generation_id = state.generation.generation_id
        return replace(
            allowed,
            boosts=self._policies.boosts(policies, generation_id, state.view, as_of_ms),
            pins=policies.pins(query.category, as_of_ms),
        )

    @staticmethod
    def _nearest(
        state: UserState,
        query_D: NDArray[np.float32],
        query: ListQuery,
        allowed: _Allowed,
        *,
        at_least: int = 1,
    ) -> Candidates:
        return candidates_by_vector(
            state.shards,
            state.view,
            query_D,
            max(at_least, candidates_wanted(query.k, query.offset, len(allowed.pins))),
            eligible=allowed.eligible,
            excluded=allowed.hidden,
            boosts=allowed.boosts,
            pins=allowed.pins,
        )


def rerank_page(
    found: Candidates,
    query: ListQuery,
    allowed: _Allowed,
    first: NDArray[np.int64] | None = None,
) -> Candidates:
    """The page of the list that was asked for."""
    return rerank(
        found,
        eligible=allowed.eligible,
        excluded=allowed.hidden,
        pins=allowed.pins,
        first=first,
        k=query.k,
        offset=query.offset,
    )
