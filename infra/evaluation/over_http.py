"""A sample of a replay, asked of the shipped API: are the lists that are measured those that users
would get?

What came before the cut is laid into a store, a night of the shipped steps makes a generation of
it, and a replica answers over HTTP. Then the days go on: items are put as their day comes, each
list is asked for and then the event posted, at the times of the log. The replay answers the same
questions with that generation's files. Left out is the way to a replica (HAProxy, Serve's router).

Shapes: E events, I items, S ordinals (here: items), T text_dim.
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
from infra.drills.small_night import sleep_shortly, steps
from infra.evaluation.errors import NoReplay
from infra.evaluation.interactions import LONG_AGO_MS, Interactions, Ints
from infra.evaluation.log import Log
from infra.evaluation.rankers.fused import Fused
from infra.evaluation.rankers.hourly import HourlyTimeline
from infra.evaluation.rankers.moonlark import Moonlark
from infra.evaluation.replay import replay
from infra.evaluation.task import Question
from infra.evaluation.walk import CUTOFF, Progress, first_items, listed, score
from ray_jobs.encoders.config import KINDS
from ray_jobs.encoders.item_text import text_digest
from ray_jobs.encoders.train_config import TrainConfig
from ray_jobs.encoders.weights import load_weights
from ray_jobs.nightly.settings import NightSettings
from ray_jobs.nightly.step import Night, run_step
from ray_jobs.nightly.train import WEIGHTS
from ray_jobs.nightly.workspace import Workspace
from ray_jobs.ranking.priors import Priors
from ray_jobs.ranking.trend import HOUR_MS
from serve.day import Day
from serve.gateway import build_api
from serve.settings import ServeSettings
from serve.trending import MAX_HOURS
from sql import catalog
from sql.events import EventKind, NewEvent, Rejected, append

GENERATION = "replayed"
AT_ONCE = 500
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
    events, bert_IT, items = _in_order_of_puts(events, bert_IT, rule.cut_ms)
    with local_store(items=0, seed=0) as store, quiet():
        encoder = _Known(bert_IT)
        _fill(store, events, items, rule.cut_ms, encoder)
        _run_night(store, rule.cut_ms, recipe, encoder)
        asked = list(_Days(store, events, items, encoder).walk(count, progress))
        return _compared(asked, store, events, bert_IT)


class Answer(Protocol):
    """What the test client gives back."""

    @property
    def status_code(self) -> int: ...
    @property
    def text(self) -> str: ...
    def json(self) -> Any: ...


class _Known:
    """Texts whose vectors are known: nothing is embedded twice."""

    encoder_id = "replay"

    def __init__(self, bert_IT: NDArray[np.float32]) -> None:
        self.dim = bert_IT.shape[1]
        self.bert_IT = bert_IT
        self._by_text = {title_of(item): vector for item, vector in enumerate(bert_IT)}

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(N, T). Raises KeyError for any other text."""
        return np.array([self._by_text[text] for text in texts]).reshape(-1, self.dim)

    async def embed(self, texts: list[str]) -> tuple[str, NDArray[np.float32]]:
        """As the day asks for it."""
        return self.encoder_id, self.encode(texts)


def title_of(item: int) -> str:
    """The text that stands for the item's own: two items may have the same, and one vector each."""
    return f"item {item}"


@dataclass(frozen=True, eq=False)
class _Catalog:
    """Items in the order in which the store gets them: at the cut or, later, when their day comes
    or (where dates are wrong) when something is done with them, withdrawn until their day."""

    put_ms_I: Ints
    published_ms_I: Ints
    """LONG_AGO_MS where nobody says."""

    def body(self, item: int, now_ms: int) -> catalog.ItemBody:
        """The item as it is at a time."""
        at_ms = int(self.published_ms_I[item])
        return catalog.ItemBody(
            title=title_of(item),
            published_at_ms=None if at_ms == LONG_AGO_MS else at_ms,
            available=at_ms <= now_ms,
        )


def _in_order_of_puts(
    events: Interactions, bert_IT: NDArray[np.float32], cut_ms: int
) -> tuple[Interactions, NDArray[np.float32], _Catalog]:
    """Items numbered as the store will."""
    published_I = events.published_ms_I
    if published_I is None:
        published_I = np.full(events.item_count, LONG_AGO_MS)
    put_I = published_I.copy()
    np.minimum.at(put_I, events.items_E, events.at_ms_E)
    order = np.argsort(np.maximum(put_I, cut_ms), kind="stable")
    moved = replace(
        events,
        texts_I=tuple(events.texts_I[item] for item in order),
        items_E=np.argsort(order)[events.items_E],
        published_ms_I=None if events.published_ms_I is None else published_I[order],
    )
    return moved, bert_IT[order], _Catalog(put_I[order], published_I[order])


def _fill(
    store: LocalStore, events: Interactions, items: _Catalog, cut_ms: int, encoder: _Known
) -> None:
    """The catalog and the log as of the cut."""
    puts = [
        catalog.ItemPut(
            f"i{item}",
            items.body(item, cut_ms),
            title_of(item),
            text_digest(title_of(item)),
            None,
            {encoder.encoder_id: encoder.bert_IT[item]},
        )
        for item in np.flatnonzero(items.put_ms_I <= cut_ms).tolist()
    ]
    for first in range(0, len(puts), AT_ONCE):
        catalog.put_items(store.engine, puts[first : first + AT_ONCE], cut_ms)
    rows = np.flatnonzero(events.at_ms_E < cut_ms)
    for first in range(0, len(rows), AT_ONCE):
        request = [_event(events, row) for row in rows[first : first + AT_ONCE].tolist()]
        (answer,) = append(store.engine, [request], received_at_ms=cut_ms, history=True)
        if isinstance(answer, Rejected):
            raise NoReplay(events.name, f"the store refuses its events: {answer}")


def _event(events: Interactions, row: int) -> NewEvent:
    value = float(events.values_E[row])
    return NewEvent(
        user_id=f"u{events.users_E[row]}",
        event_id=f"e{row}",
        kind=EventKind(KINDS[events.kinds_E[row]]),
        item_id=f"i{events.items_E[row]}",
        value=None if np.isnan(value) else value,
        occurred_at_ms=int(events.at_ms_E[row]),
    )


def _run_night(store: LocalStore, cut_ms: int, recipe: TrainConfig, encoder: _Known) -> None:
    workspace = Workspace(store.root, GENERATION)
    settings = NightSettings(stage_deadline_s=20, verify_deadline_s=20)
    night = Night(store.engine, store.settings, settings, workspace, lambda: cut_ms, sleep_shortly)
    for name, step in steps(recipe, encoder).items():
        if name != "verify":  # which waits for replicas
            run_step(night, name, step)


class _Days:
    """The days after the cut, over HTTP, on a clock of their own."""

    def __init__(
        self, store: LocalStore, events: Interactions, items: _Catalog, encoder: _Known
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
        event = _event(self._events, row)
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
