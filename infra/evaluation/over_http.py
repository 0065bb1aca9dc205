"""A sample of a replay, asked of the shipped API: are the lists that are measured those that users
would get?

What came before the cut is laid into a store, a night of the shipped steps makes a generation of
it, and a replica answers over HTTP. Then the days go on: items are put as their day comes, each
list is asked for and then the event posted, at the times of the log. The replay answers the same
questions with that generation's files. Left out is the way to a replica (HAProxy, Serve's router).

Shapes: I items, K list length, Q questions, T text_dim.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import numpy as np
from fastapi.testclient import TestClient
from numpy.typing import NDArray

from infra.drills.local import LocalStore, local_store, quiet
from infra.drills.small_night import steps
from infra.evaluation.errors import NoReplay
from infra.evaluation.interactions import LONG_AGO_MS, Interactions, Ints
from infra.evaluation.log import Log
from infra.evaluation.rankers.fused import Fused
from infra.evaluation.rankers.hourly import HourlyTimeline
from infra.evaluation.rankers.moonlark import Moonlark
from infra.evaluation.replay import replay
from infra.evaluation.store_nights import (
    CatalogByDay,
    KnownTexts,
    event_of,
    in_order_of_puts,
    night_at,
    post_events,
    put_items,
)
from infra.evaluation.task import Question
from infra.evaluation.walk import CUTOFF, Progress, first_items, listed, score
from ray_jobs.encoders.train_config import TrainConfig
from ray_jobs.encoders.weights import load_weights
from ray_jobs.nightly.step import run_step
from ray_jobs.nightly.train import WEIGHTS
from ray_jobs.ranking.priors import Priors
from ray_jobs.ranking.trend import HOUR_MS
from serve.day import Day
from serve.gateway import build_api
from serve.settings import ServeSettings
from serve.trending import MAX_HOURS

GENERATION = "replayed"
SAME_SCORE = 1e-4
"""Two items whose scores differ by less may change places: float32 in another order of sums."""
READ_AGAIN_MS = 1_000
"""A replica reads activity once a second: what is asked sooner after an event is not compared."""
READY_S = 30.0


@dataclass(frozen=True)
class OverHttp:
    """How the two agree on `asked` lists: `equal` have the same items in the same places; `tied`
    have at each place an item of the same score to `SAME_SCORE`, and none twice."""

    asked: int
    equal: int
    tied: int
    ndcg_http: float
    ndcg_replay: float

    @property
    def differ(self) -> int:
        """Lists that are not the same."""
        return self.asked - self.equal - self.tied


@dataclass(frozen=True, eq=False)
class _Asked:
    question: Question
    list_K: Ints
    """What the API listed, -1 where fewer."""


def ask_over_http(
    interactions: Interactions,
    bert_IT: NDArray[np.float32],
    recipe: TrainConfig,
    count: int,
    progress: Progress = lambda count: None,
) -> OverHttp:
    """Ask `count` questions of users with a history, from the cut on, those of a week at most.

    Raises:
        NoReplay: the data has no cut, or too few questions for a night with fusion.
    """
    if interactions.rule is None:
        raise NoReplay(interactions.name, "its events span less than two days")
    rule = replace(interactions.rule, question="event")
    events = replace(interactions, rule=rule)
    events, bert_IT, items = in_order_of_puts(events, bert_IT, rule.cut_ms)
    with local_store(items=0, seed=0) as store, quiet():
        encoder = KnownTexts(bert_IT)
        put_items(store, items, encoder, 0, rule.cut_ms)
        post_events(store, events, LONG_AGO_MS, rule.cut_ms)
        night = night_at(store, GENERATION, rule.cut_ms)
        for name, step in steps(recipe, encoder).items():
            if name != "verify":  # which waits for replicas
                run_step(night, name, step)
        asked = list(_Days(store, events, items, encoder).walk(count, progress))
        return _compared(asked, store, events, bert_IT)


class Answer(Protocol):
    """What the test client gives back."""

    @property
    def status_code(self) -> int: ...
    @property
    def text(self) -> str: ...
    def json(self) -> Any: ...


class _Days:
    """The days after the cut, over HTTP, on a clock of their own."""

    def __init__(
        self, store: LocalStore, events: Interactions, items: CatalogByDay, encoder: KnownTexts
    ) -> None:
        self._store, self._events, self._items, self._encoder = store, events, items, encoder
        assert events.rule is not None
        self._now_ms = events.rule.cut_ms
        # A replica counts what was done since the night, but not for longer.
        self._until_ms = events.rule.cut_ms + MAX_HOURS * HOUR_MS
        self._there = int((items.put_ms_I <= self._now_ms).sum())
        self._withdrawn = np.flatnonzero(items.published_ms_I[: self._there] > self._now_ms)

    def walk(self, count: int, progress: Progress) -> Iterator[_Asked]:
        """Ask, then post, event by event, until the night is a week ago."""
        store, settings = self._store, ServeSettings(http_host="127.0.0.1")
        api = build_api(
            settings,
            lambda: Day.start(
                store.settings, settings, self._encoder.embed, now_ms=lambda: self._now_ms
            ),
        )
        asked, last_ms = 0, 0
        with TestClient(api, base_url="http://127.0.0.1") as http:
            _wait_until_ready(http)
            for _, questions in replay(self._events, "nightly+live").steps:
                for question in questions:
                    if question.at_ms >= self._until_ms:
                        return
                    self._now_ms = question.at_ms
                    self._put_items(http)
                    is_fresh = question.at_ms - last_ms >= READ_AGAIN_MS
                    if len(question.history) and is_fresh:
                        yield _Asked(question, _list(http, question.user))
                        asked += 1
                        progress(1)
                        if asked == count:
                            return
                    self._post(http, question.known)  # the row of the event itself
                    last_ms = question.at_ms

    def _put_items(self, http: TestClient) -> None:
        """Those whose time has come."""
        items, now_ms = self._items, self._now_ms
        first, self._there = self._there, int((items.put_ms_I <= now_ms).sum())
        new = np.arange(first, self._there)
        is_due = items.published_ms_I[self._withdrawn] <= now_ms
        for item in [*new.tolist(), *self._withdrawn[is_due].tolist()]:
            body = items.body(item, now_ms)
            sent: dict[str, Any] = {"title": body.title, "available": body.available}
            if body.published_at_ms is not None:
                sent["published_at"] = _iso(body.published_at_ms)
            _ok(http.put(f"/v1/items/i{item}", json=sent))
        yet_to_be = new[items.published_ms_I[new] > now_ms]
        self._withdrawn = np.concatenate([self._withdrawn[~is_due], yet_to_be])

    def _post(self, http: TestClient, row: int) -> None:
        event = event_of(self._events, row)
        sent: dict[str, Any] = {
            "user_id": event.user_id,
            "event_id": event.event_id,
            "kind": event.kind.value,
            "item_id": event.item_id,
        }
        if event.value is not None:
            sent["value"] = event.value
        _ok(http.post("/v1/events", json=sent))


def _wait_until_ready(http: TestClient) -> None:
    deadline_s = time.monotonic() + READY_S
    while http.get("/readyz").status_code != 200:
        assert time.monotonic() < deadline_s, http.get("/v1/status").text
        time.sleep(0.05)


def _list(http: TestClient, user: int) -> Ints:
    answer = _ok(http.get(f"/v1/users/u{user}/recommendations", params={"k": CUTOFF}))
    assert not answer["degraded"], answer["degraded"]
    items = [int(item["item_id"].removeprefix("i")) for item in answer["items"]]
    return np.array(items + [-1] * (CUTOFF - len(items)), np.int64)


def _ok(answer: Answer) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def _iso(at_ms: int) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at_ms)).isoformat()


def _compared(
    asked: Sequence[_Asked], store: LocalStore, events: Interactions, bert_IT: NDArray[np.float32]
) -> OverHttp:
    """The same questions, answered by the replay with the files of the generation."""
    directory = store.root / "generations" / GENERATION
    priors = Priors.open(directory)
    if priors is None:
        raise NoReplay(events.name, "too few questions before the cut to learn fusion from")
    log = Log(events)
    cosine = Moonlark.of(load_weights(directory / WEIGHTS), bert_IT)
    ranker = Fused.of(cosine, priors.fusion, priors.neighbours, HourlyTimeline)
    equal = tied = 0
    gains_2Q = np.zeros((2, len(asked)))
    for number, (question, list_K) in enumerate((one.question, one.list_K) for one in asked):
        scores_I = listed(np.asarray(ranker.scores(log, question)), question)
        ours_K = first_items(scores_I, CUTOFF)
        if np.array_equal(ours_K, list_K):
            equal += 1
        elif _is_distinct(list_K) and np.allclose(
            _scores(scores_I, ours_K), _scores(scores_I, list_K), atol=SAME_SCORE
        ):
            tied += 1
        for row, shown_K in enumerate((list_K, ours_K)):
            gains_2Q[row, number] = score(scores_I, shown_K, question.relevant)[0]
    by_http, by_replay = gains_2Q.mean(axis=1).tolist()
    return OverHttp(len(asked), equal, tied, by_http, by_replay)


def _is_distinct(list_K: Ints) -> bool:
    shown = list_K[list_K >= 0]
    return len(np.unique(shown)) == len(shown)


def _scores(scores_I: NDArray[np.float64], list_K: Ints) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.where(list_K >= 0, scores_I[list_K], 0)
    return np.where(np.isfinite(found), found, -1e9)
