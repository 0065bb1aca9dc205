"""The categories and terms of a user's interest, from the items nearest to the user vector."""

import threading
from collections import OrderedDict

from ray_jobs.ranking.interests import NEAREST, SAMPLED_ITEMS, Interests, TermShares, interests_of
from ray_jobs.shards.search import search
from serve.loaded_generation import LoadedGeneration
from serve.user_state import UserState

KEPT_GENERATIONS = 2


class InterestsOfUsers:
    """Thread-safe. The catalog's terms are counted at the first question about a generation."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shares: OrderedDict[str, TermShares] = OrderedDict()

    def of(self, state: UserState) -> Interests | None:
        """Of all items that are listed, seen or not, but what the user disliked or hid; None for a
        user without a vector."""
        vector_D = state.vector
        if vector_D is None:
            return None
        _, ordinals = search(
            state.shards, state.view.delta, vector_D, NEAREST, excluded=state.excluded
        )
        nearest = [item for item in state.view.items.get_many(ordinals) if item is not None]
        return interests_of(
            [item.title for item in nearest],
            [item.category for item in nearest],
            self._shares_of(state.generation),
        )

    def _shares_of(self, generation: LoadedGeneration) -> TermShares:
        generation_id = generation.generation_id
        with self._lock:
            kept = self._shares.get(generation_id)
            if kept is None:
                kept = TermShares.of(generation.view.items.titles(SAMPLED_ITEMS))
                self._shares[generation_id] = kept
                while len(self._shares) > KEPT_GENERATIONS:
                    self._shares.popitem(last=False)
            return kept
