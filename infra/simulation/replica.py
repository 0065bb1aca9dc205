"""A replica: the objects of `serve.day.Day`, with actors where production has threads and a loop.

Requests run as actors of the replica, so a crash takes them and everything in memory; the client
is left with a broken connection and does not know what became of its request.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from infra.simulation.fake_model import ENCODER_ID, embed_text
from infra.simulation.scheduler import Actor, BatonLock, Call, Violation
from infra.simulation.world import World
from ray_jobs.encoders.item_text import compose, text_digest
from serve.feedback import Post, append_posts
from serve.forgetting import Forgetting
from serve.generation_watch import GenerationWatch
from serve.lists import ItemList, ListQuery
from serve.loaded_generation import LoadedGeneration
from serve.policies import Policies
from serve.problems import ProblemError, unavailable
from serve.recommend import Recommender
from serve.session_cache import SessionCache
from serve.trending import Trending
from serve.user_state import UserStates
from serve.write_behind import WriteBehind
from sql import catalog
from sql.erasure import Receipt, apply_ledger, erase_user
from sql.errors import StoreError
from sql.events import NewEvent, StoredEvent, write_text_vector

WATCH_INTERVAL_S = 0.5
FLUSH_INTERVAL_S = 1.0
GROUP_COMMIT_S = 0.003
GROUP_POSTS = 4
CACHED_SESSIONS = 2
"""Few, so that stored sessions and folds from nothing are walked too."""
WRITE_BACK_AFTER = 2

EXPECTED_ERRORS = (StoreError, ProblemError)
"""What a request may end with; anything else is a bug of ours."""


class ConnectionBroken(Exception):
    """The replica went away with the request: its outcome is not known."""


class Replica:
    """One incarnation of a replica. A restart makes another, under another id."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.skew_ms = 0
        self.stopped = False
        """SIGSTOP of its watch and flush; requests in flight go on later."""
        self.alive = True
        self._actors: list[Actor] = []
        self._calls: list[Call] = []
        self._posts: list[tuple[Post, Call]] = []
        engine, scheduler = world.engine, world.scheduler
        self.watch = GenerationWatch(
            engine, world.root, name, WATCH_INTERVAL_S, world.now_ms, self._open_generation
        )
        self.write_behind = WriteBehind(engine, 50, scheduler.sleep)
        cache = SessionCache(CACHED_SESSIONS)
        self.forgetting = Forgetting(engine, world.ledger, cache, self.now_ms)
        self.states = UserStates(
            engine,
            self.watch,
            cache,
            self.write_behind,
            write_back_after=WRITE_BACK_AFTER,
            now_ms=self.now_ms,
        )
        trending, policies = Trending(engine, self.now_ms), Policies(engine)
        # They hold their lock while they read.
        trending._reading = BatonLock(scheduler)  # type: ignore[assignment]
        policies._lock = BatonLock(scheduler)  # type: ignore[assignment]
        self.recommender = Recommender(
            engine, self.states, trending, self.write_behind, self.now_ms, policies
        )

    def now_ms(self) -> int:
        """This replica's clock."""
        return self.world.scheduler.now_ms + self.skew_ms

    def start(self) -> None:
        """Load, then watch and flush until the end."""
        self._spawn("watch", self._watch)
        self._spawn("flush", self._flush)

    def crash(self) -> None:
        """All memory is gone at once."""
        self.alive = False
        for actor in self._actors:
            self.world.scheduler.kill(actor)
        for call in self._calls:
            call.finish(error=ConnectionBroken(self.name))

    def call(self, what: str, run: Callable[[], Any]) -> Call:
        """A request that `run` answers."""
        call = self._new_call()

        def handle() -> None:
            try:
                call.finish(run())
            except EXPECTED_ERRORS as error:
                call.finish(error=error)

        if self.alive:
            self._spawn(what, handle)
        return call

    def post(self, events: Sequence[NewEvent], *, keep: bool) -> Call:
        """Events, to be committed with those of others."""
        call = self._new_call()
        if self.alive:
            self._posts.append(((events, keep), call))
            if len(self._posts) == 1:
                self._spawn("feedback", self._commit_groups)
        return call

    def recommend(self, user_id: str, query: ListQuery, request_id: str) -> ItemList:
        """As the route does: at once if it can be, and once more if texts waited for BERT."""
        answer = self.recommender.recommend_at_once(user_id, query)
        if answer is None:
            answer = self.recommender.recommend(user_id, query)
        if answer.state.unembedded and self.world.bert_is_up:
            self._embed_late(answer.state.unembedded)
            answer = self.recommender.recommend(user_id, query)
        self.recommender.expose(answer, query, request_id)
        return answer

    def put_item(
        self, item_id: str, body: catalog.ItemBody, version: int | None
    ) -> catalog.PutResult:
        """As the route does: text to BERT to the catalog log."""
        if not self.world.bert_is_up:
            raise unavailable("items were not stored", "BERT is away", "send them again")
        text = compose(body.title, body.text, body.category)
        put = catalog.ItemPut(
            item_id, body, text, text_digest(text), version, {ENCODER_ID: embed_text(text)}
        )
        (result,) = catalog.put_items(self.world.engine, [put], at_ms=self.now_ms())
        return result

    def erase(self, user_id: str) -> Receipt:
        # The true time: by a clock that is ahead, a user who comes back is refused for so long.
        receipt = erase_user(
            self.world.engine, self.world.ledger, user_id, at_ms=self.world.now_ms()
        )
        self.forgetting.forget([self.world.ledger.key.hmac_of(user_id)])
        return receipt

    def delete_item(self, item_id: str, version: int | None) -> catalog.DeleteResult:
        return catalog.delete_item(self.world.engine, item_id, version, at_ms=self.now_ms())

    def _embed_late(self, events: Sequence[StoredEvent]) -> None:
        for event in events:
            if event.text is not None:
                vector = embed_text(event.text)
                write_text_vector(
                    self.world.engine, event.user_key, event.user_seq, ENCODER_ID, vector
                )

    def _commit_groups(self) -> None:
        while self._posts:
            self.world.scheduler.sleep(GROUP_COMMIT_S)
            group, self._posts = self._posts[:GROUP_POSTS], self._posts[GROUP_POSTS:]
            outcomes = append_posts(
                self.world.engine,
                [post for post, _ in group],
                self.now_ms,
                self.world.ledger.key,
            )
            for (_, call), outcome in zip(group, outcomes, strict=True):
                if isinstance(outcome, EXPECTED_ERRORS):
                    call.finish(error=outcome)
                elif isinstance(outcome, Exception):
                    raise Violation(f"append: {outcome!r}") from outcome
                else:
                    call.finish(outcome)

    def _apply_ledger(self) -> None:
        """As a replica does before it answers: who is in the ledger is erased here too."""
        while True:
            try:
                apply_ledger(self.world.engine, self.world.ledger)
            except StoreError as error:
                self.world.scheduler.note(f"ledger: {type(error).__name__}")
                self.world.scheduler.sleep(WATCH_INTERVAL_S)
            else:
                return

    def _watch(self) -> None:
        self._apply_ledger()
        while True:
            if not self.stopped:
                try:
                    self.watch.look()
                except (SQLAlchemyError, StoreError) as error:
                    self.world.scheduler.note(f"look: {type(error).__name__}")
            self.world.scheduler.sleep(WATCH_INTERVAL_S)

    def _flush(self) -> None:
        while True:
            self.world.scheduler.sleep(FLUSH_INTERVAL_S)
            if not self.stopped:
                self.write_behind.flush()
                self._forget()

    def _forget(self) -> None:
        try:
            self.forgetting.finish()
            self.forgetting.look()
        except (SQLAlchemyError, StoreError) as error:
            self.world.scheduler.note(f"forgetting: {type(error).__name__}")

    def _open_generation(
        self, root: Path, generation_id: str, sealed_digest: str
    ) -> LoadedGeneration:
        loaded = LoadedGeneration.open(root, generation_id, sealed_digest)
        if generation_id in self.world.damaged:
            raise Violation(f"{self.name} loaded {generation_id}, of which a byte is wrong")
        loaded._lock = BatonLock(self.world.scheduler)  # type: ignore[assignment]
        return loaded

    def _new_call(self) -> Call:
        call = Call(self.world.scheduler)
        self._calls.append(call)
        if not self.alive:
            call.finish(error=ConnectionBroken(self.name))
        return call

    def _spawn(self, what: str, run: Callable[[], None]) -> None:
        spawn = self.world.scheduler.spawn
        self._actors.append(spawn(f"{self.name} {what}", run, background=True))
