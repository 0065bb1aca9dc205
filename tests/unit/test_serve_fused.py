"""The pools that the lists of a second share are made once, however many ask for them at once."""

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from serve.fused import AT_HAND_MS, EARLY_MS, REST_MS, FusedLists
from serve.trending import REFRESH_MS
from sql.errors import StoreUnavailable

THREADS = 8
STATE: Any = SimpleNamespace(
    generation=SimpleNamespace(
        generation_id="g1", priors=SimpleNamespace(fusion=SimpleNamespace(activity_hour=0))
    ),
    catalog_seq=1,
    as_of_ms=None,
)
PRIORS = STATE.generation.priors


class OneActivity:
    """In the place of `Trending`: nothing happens, and the clock is moved by hand."""

    def __init__(self) -> None:
        self.at_ms = 1_000_000
        self.activity = object()

    def now_ms(self) -> int:
        return self.at_ms

    def activity_since(self, *_: object) -> object:
        return self.activity


def test_of_lists_that_ask_at_once_one_makes_the_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    trending: Any = OneActivity()
    lists, made = FusedLists(trending), []
    all_ask = threading.Barrier(THREADS)

    def make(state: object, priors: object, live: object, as_of_ms: int) -> object:
        made.append(as_of_ms)
        threading.Event().wait(0.05)  # long enough for all of them to come, whoever is first
        return SimpleNamespace(live=live)

    def ask(_: int) -> object:
        all_ask.wait()
        return lists._now(STATE, PRIORS, trending.at_ms)

    monkeypatch.setattr(FusedLists, "_made", staticmethod(make))
    with ThreadPoolExecutor(THREADS) as pool:
        answers = set(map(id, pool.map(ask, range(THREADS))))
    assert (len(made), len(answers)) == (1, 1)
    trending.activity = object()
    lists._now(STATE, PRIORS, trending.at_ms)
    assert len(made) == 2, "another activity, other pools"


def test_pools_that_took_long_are_made_earlier_the_next_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trending: Any = OneActivity()
    lists, made = FusedLists(trending), []
    takes_ms = 0

    def make(_: object, __: object, live: object, as_of_ms: int) -> object:
        made.append(as_of_ms)
        trending.at_ms += takes_ms
        return SimpleNamespace(live=live, pools=SimpleNamespace(front=None, newest_first=None))

    def looks(after_ms: int) -> bool:
        """Whether a look so long after the last making began makes the next ones."""
        before, trending.at_ms = len(made), made[-1] + after_ms
        lists.make_ready(lambda: STATE, trending.at_ms)
        return len(made) > before

    monkeypatch.setattr(FusedLists, "_made", staticmethod(make))
    lists._now(STATE, PRIORS, trending.at_ms)
    lists.make_ready(lambda: STATE, trending.at_ms)
    assert not looks(REFRESH_MS - EARLY_MS - 1)
    takes_ms = 300
    assert looks(REFRESH_MS - EARLY_MS)
    assert looks(REFRESH_MS - 2 * takes_ms)
    takes_ms = 0
    assert looks(REFRESH_MS - 2 * 300)
    assert not looks(REFRESH_MS - EARLY_MS - 1), "they took no time, so it is early enough again"


def test_a_replica_that_nobody_asks_has_its_pools_and_rests_where_it_cannot_make_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trending: Any = OneActivity()
    lists, made = FusedLists(trending), []
    is_away, asked = True, []

    def make(_: object, __: object, live: object, as_of_ms: int) -> object:
        made.append(as_of_ms)
        return SimpleNamespace(live=live, pools=SimpleNamespace(front=None, newest_first=None))

    def nobody() -> Any:
        asked.append(trending.at_ms)
        if is_away:
            raise StoreUnavailable("sqlite", "away")
        return STATE

    monkeypatch.setattr(FusedLists, "_made", staticmethod(make))
    with pytest.raises(StoreUnavailable):
        lists.make_ready(nobody, trending.at_ms)
    is_away = False
    trending.at_ms += REST_MS - 1
    lists.make_ready(nobody, trending.at_ms)
    assert (len(asked), len(made)) == (1, 0)
    trending.at_ms += 1
    lists.make_ready(nobody, trending.at_ms)
    assert (len(asked), len(made)) == (2, 1)
    assert lists._now(STATE, PRIORS, trending.at_ms).live is trending.activity
    assert len(made) == 1, "the first list finds them"


def test_priors_of_the_next_generation_are_found_within_a_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trending: Any = OneActivity()
    lists = FusedLists(trending)
    made = SimpleNamespace(pools=SimpleNamespace(front=None, newest_first=None))
    monkeypatch.setattr(FusedLists, "_made", staticmethod(lambda *_: made))
    without: Any = SimpleNamespace(
        generation=SimpleNamespace(generation_id="old", priors=None), catalog_seq=0, as_of_ms=None
    )
    lists.make_ready(lambda: without, trending.at_ms)
    trending.at_ms += REFRESH_MS
    lists.make_ready(lambda: STATE, trending.at_ms)
    assert lists.is_at_hand(STATE, trending.at_ms)
    trending.at_ms += REFRESH_MS - AT_HAND_MS
    assert not lists.is_at_hand(STATE, trending.at_ms), "they may end while the list is made"
    assert lists._now(STATE, PRIORS, trending.at_ms) is made, "for another list they still hold"
