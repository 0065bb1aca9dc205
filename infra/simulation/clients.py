"""Clients: what users and editors do, and what they may hold us to afterwards.

A client whose request fails, or is not answered in time, sends the same again, to any replica,
until it is answered. What it was told goes into the `Promises`.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from infra.simulation.answers import asked_now, check_answer, check_similar
from infra.simulation.fake_model import ENCODER_ID, embed_text
from infra.simulation.replica import ConnectionBroken, Replica
from infra.simulation.scheduler import Call, Violation
from infra.simulation.world import NEVER, Sent, World
from serve.lists import ItemList, ListQuery
from serve.problems import ProblemError
from sql.catalog import DeleteResult, ItemBody, PutResult
from sql.errors import StoreError
from sql.events import Appended, EventKind, NewEvent, Rejected

WORDS = ("space", "pasta", "garden", "chess", "soup", "rose")
CATEGORIES = ("film", "book", None)
KINDS = ("view", "click", "favourite", "purchase", "rating", "dislike", "hide", "search", "comment")
TIMEOUTS_S = (0.004, 0.4, 0.4, 0.4)
"""The first is over while the request is still at work: its retry runs beside it."""
MAX_TRIES = 400
VERSIONED = 4
K = 100


class Client:
    """One client, which does `operations` things and ends."""

    def __init__(self, world: World, number: int, operations: int) -> None:
        self._world = world
        self._rng = world.rng
        self._name = f"client{number}"
        self._operations = operations
        self._choices: list[tuple[Callable[[], None], int]] = [
            (self.ask, 30),
            (self.act, 30),
            (self.act_then_ask, 12),
            (self.take_back, 10),
            (self.send_again, 6),
            (self.send_other_body, 2),
            (self.put_item, 10),
            (self.edit_item, 6),
            (self.delete_item, 6),
            (self.ask_similar, 4),
            (self.erase, 2),
        ]

    def start(self) -> None:
        self._world.scheduler.spawn(self._name, self._run)

    def _run(self) -> None:
        acts, weights = zip(*self._choices, strict=True)
        for _ in range(self._operations):
            self._world.scheduler.sleep(self._rng.expovariate(1 / 0.15))
            (act,) = self._rng.choices(acts, weights)
            act()

    # What users do.

    def ask(self, user_id: str | None = None) -> None:
        """A list; one try, for an answer that is late is no broken promise."""
        world = self._world
        user_id = user_id or self._user()
        replica = self._replica()
        k = self._rng.choice((3, K))
        query = ListQuery(k=k, exclude_seen=self._rng.random() < 0.8)
        asked = asked_now(world, user_id)
        request_id = f"{self._name}-{next(world.numbers)}"
        call = replica.call(
            f"recommend {user_id}", lambda: replica.recommend(user_id, query, request_id)
        )
        world.scheduler.wait(call, 5.0)
        if call.done and call.error is None:
            answer: ItemList = call.answer
            state = answer.state
            world.scheduler.note(
                f"{user_id} is shown {len(answer.items)} of {state.generation.generation_id} "
                f"at {state.user_seq}/{state.catalog_seq} {','.join(state.degraded)}"
            )
            check_answer(world, asked, query, answer)
        elif isinstance(call.error, ProblemError) and call.error.status != 503:
            raise Violation(f"{user_id} asked for a list: {call.error}")

    def act(self, user_id: str | None = None) -> None:
        """One event or a few, all of one user."""
        user_id = user_id or self._user()
        count = self._rng.choice((1, 1, 1, 2, 3))
        self._post([self._event(user_id) for _ in range(count)])

    def act_then_ask(self, user_id: str | None = None) -> None:
        """The promise that users notice."""
        user_id = user_id or self._user()
        self.act(user_id)
        self.ask(user_id)

    def take_back(self) -> None:
        sent = [
            s
            for s in self._world.promises.sent.values()
            if s.acked is not None and s.event.kind != EventKind.UNDO
        ]
        if sent:
            target = self._rng.choice(sent[-12:]).event
            event_id = f"{self._name}-e{next(self._world.numbers)}"
            self._world.truth.undo_targets[event_id] = target.event_id
            self._post(
                [
                    NewEvent(
                        target.user_id,
                        event_id,
                        EventKind.UNDO,
                        undoes=target.event_id,
                        occurred_at_ms=self._world.now_ms(),
                    )
                ]
            )

    def send_again(self) -> None:
        """A retry of something old, acknowledged or not."""
        sent = list(self._world.promises.sent.values())
        if sent:
            self._post([self._rng.choice(sent).event])

    def send_other_body(self) -> None:
        """The same id for something else: refused, unless the first was never stored."""
        sent = [s for s in self._world.promises.sent.values() if s.acked is not None]
        sent = [s for s in sent if s.event.kind == EventKind.VIEW]
        if not sent:
            return
        chosen = self._rng.choice(sent)
        user = self._world.promises.user(chosen.event.user_id)
        other = replace(chosen.event, kind=EventKind.CLICK)
        tries: list[Call] = []

        def send(replica: Replica) -> Call:
            tries.append(replica.post([other], keep=True))
            return tries[-1]

        refused = isinstance(self._until_answered(send), Rejected)
        if refused and len(tries) == 1:
            return
        if not refused and not user.erasures and not self._world.retained:
            raise Violation(f"{other} was taken beside {chosen.event}")
        # Which one is stored is open now: a try that was given up may come after retention took
        # the first.
        self._world.promises.sent.pop(other.event_id, None)

    def erase(self) -> None:
        """Forget a user: in force when acknowledged."""
        world, user_id = self._world, self._user()
        user = world.promises.user(user_id)
        erasure, asked_ms = [world.scheduler.step, NEVER], world.now_ms()
        user.erasures.append(erasure)
        user.floor = 0
        tries: list[Call] = []

        def send(replica: Replica) -> Call:
            tries.append(replica.call(f"erase {user_id}", lambda: replica.erase(user_id)))
            return tries[-1]

        self._until_answered(send)
        # A try that was given up may still be at work, and erases whoever has come back by then.
        for call in tries:
            while not call.done:
                world.scheduler.wait(call, 1.0)
        erasure[1] = world.scheduler.step
        user.forgotten_ms = asked_ms
        world.scheduler.note(f"{user_id} is erased")
        for _ in range(self._rng.choice((0, 3))):  # comes back at once, as somebody else
            self.act_then_ask(user_id)

    # What editors do.

    def put_item(self) -> None:
        """A new item, or one that was deleted; now and then one of a few, with a version, so that
        these overtake each other."""
        if self._rng.random() < 0.4:
            self._put(f"i{self._rng.randrange(VERSIONED)}", self._rng.randrange(5))
        else:
            self._put(f"i{self._rng.randrange(len(self._world.item_ids) + 3)}", None)

    def edit_item(self) -> None:
        self._put(self._rng.choice(self._world.item_ids), None)

    def delete_item(self) -> None:
        item_id = self._rng.choice(self._world.item_ids)
        result = self._until_answered(
            lambda r: r.call(f"delete {item_id}", lambda: r.delete_item(item_id, None))
        )
        if isinstance(result, DeleteResult) and result.change_seq:
            self._change_acked(result.change_seq, item_id, None)

    def ask_similar(self) -> None:
        world, replica = self._world, self._replica()
        item_id = self._rng.choice(world.item_ids)
        asked = asked_now(world, None)
        query = ListQuery(k=5)
        call = replica.call(
            f"similar {item_id}", lambda: replica.recommender.similar(item_id, query)
        )
        world.scheduler.wait(call, 5.0)
        if call.done and call.error is None:
            check_similar(world, asked, item_id, query, call.answer)

    # How.

    def _put(self, item_id: str, version: int | None) -> None:
        number = next(self._world.numbers)
        words = self._rng.sample(WORDS, 2)
        title = f"{words[0]} {words[1]} {number}" if self._rng.random() < 0.8 else words[0]
        body = ItemBody(title=title, category=self._rng.choice(CATEGORIES))
        # Few tries: while BERT is away, no put is taken.
        result: PutResult | None = self._answer(
            lambda r: r.call(f"put {item_id}", lambda: r.put_item(item_id, body, version)), 10
        )
        if result is not None and result.outcome != "stale_version":
            asked = version if result.outcome in ("created", "updated") else None
            self._change_acked(result.change_seq, item_id, asked)
            if item_id not in self._world.item_ids:
                self._world.item_ids.append(item_id)

    def _change_acked(self, change_seq: int, item_id: str, version: int | None) -> None:
        promises = self._world.promises
        promises.catalog_seq = max(promises.catalog_seq, change_seq)
        promises.changes[change_seq] = (item_id, version)
        self._world.scheduler.note(f"{item_id} changed at {change_seq}")

    def _event(self, user_id: str) -> NewEvent:
        rng, world = self._rng, self._world
        kind = rng.choice(KINDS)
        text = f"{rng.choice(WORDS)} {rng.choice(WORDS)}" if kind in ("search", "comment") else None
        embedded = text is not None and world.bert_is_up
        return NewEvent(
            user_id=user_id,
            event_id=f"{self._name}-e{next(world.numbers)}",
            kind=EventKind(kind),
            item_id=None if text else rng.choice(world.item_ids),
            text=text,
            value=float(rng.randint(1, 5)) if kind == "rating" else None,
            occurred_at_ms=world.now_ms(),
            vectors={ENCODER_ID: embed_text(text)} if text and embedded else {},
        )

    def _post(self, events: list[NewEvent]) -> None:
        world = self._world
        sent = world.promises.sent
        keep = self._rng.random() < 0.3
        for event in events:
            sent.setdefault(event.event_id, Sent(event, world.scheduler.step))
        outcome = self._until_answered(lambda r: r.post(events, keep=keep))
        if isinstance(outcome, Rejected):
            self._check_refusal(outcome, events)
            return
        for event, appended in zip(events, outcome, strict=True):
            if event.event_id in sent:  # else somebody sent another body under this id meanwhile
                self._acked(sent[event.event_id], appended)

    def _acked(self, sent: Sent, appended: Appended) -> None:
        world = self._world
        user = world.promises.user(sent.event.user_id)
        may_differ = user.erasures or world.retained
        if sent.acked_seq not in (None, appended.user_seq) and not may_differ:
            raise Violation(f"{sent.event} is at {sent.acked_seq}, and now at {appended.user_seq}")
        if sent.acked is None:
            sent.acked, sent.acked_seq = world.scheduler.step, appended.user_seq
        # Beside an erasure nobody can say which came first.
        pending = user.being_erased or world.is_erasure_pending(sent.event.user_id)
        if not pending and sent.first_sent > user.last_erased:
            user.floor = max(user.floor, appended.user_seq)
        world.scheduler.note(
            f"{sent.event.user_id} {sent.event.kind} {sent.event.event_id} is at "
            f"{appended.user_seq}{' again' if appended.duplicate else ''}"
        )

    def _check_refusal(self, rejected: Rejected, events: list[NewEvent]) -> None:
        """Only what was deleted may be unknown, and only what was erased may be gone."""
        for problem in rejected.problems:
            event = events[problem.index]
            user = self._world.promises.user(event.user_id)
            if problem.status == 404 and self._world.truth.was_away(event.item_id):
                continue
            if problem.status == 409 and (user.erasures or self._world.retained):
                continue
            erased_at_ms = self._world.erased_at_ms(event.user_id)
            if problem.status == 410 and event.occurred_at_ms <= erased_at_ms:
                continue
            raise Violation(f"{event} was refused: {problem}")
        self._world.scheduler.note(f"refused: {[p.status for p in rejected.problems]}")

    def _until_answered(self, send: Callable[[Replica], Call]) -> Any:
        """The answer; whatever stands in its way, the same is sent again."""
        answer = self._answer(send, MAX_TRIES)
        if answer is None:
            raise Violation(f"{self._name} had no answer in {MAX_TRIES} tries")
        return answer

    def _answer(self, send: Callable[[Replica], Call], tries: int) -> Any | None:
        world = self._world
        for _ in range(tries):
            call = send(self._replica())
            world.scheduler.wait(call, self._rng.choice(TIMEOUTS_S))
            if call.done and call.error is None:
                return call.answer
            if isinstance(call.error, ProblemError) and call.error.status != 503:
                raise Violation(f"{self._name}: {call.error}") from call.error
            known = (ConnectionBroken, StoreError, ProblemError)
            assert call.error is None or isinstance(call.error, known)
            world.scheduler.sleep(self._rng.choice((0.0, self._rng.uniform(0.02, 0.2))))
        return None

    def _replica(self) -> Replica:
        return self._rng.choice(self._world.replicas)

    def _user(self) -> str:
        return self._rng.choice(self._world.user_ids)
