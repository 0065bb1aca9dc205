"""The clients of a drill: plain HTTP without retries, at a steady pace, each with its own users.

A client is the only one who writes for its users and its items, so it knows what must be in force.
"""

import threading
import time
from typing import Any

import httpx
import numpy as np

from infra.drills.catalog import made_title
from infra.drills.record import Ack, Answer, ItemAck, Kind, Record, Timing

PACE_S = 0.1
"""A request each, if the one before is answered."""
TIMEOUT_S = 30.0
EVENTS_A_USER = 60
"""Then the client goes on as somebody else: the checker folds whole histories."""
KINDS = ("view", "click", "favourite", "purchase", "rating", "dislike", "hide")
MAX_OWN_ITEMS = 30


class Client(threading.Thread):
    """One of them. `items`: the catalog's i0 .. are only looked at, never changed."""

    refusable: frozenset[Kind] = frozenset()
    """What may be refused with Retry-After, in a scenario that takes away what it needs."""

    def __init__(
        self, number: int, url: str, items: int, record: Record, seed: int, *, prefix: str = "c"
    ) -> None:
        """`prefix`: of its users and items; another one for each drill on a stack."""
        super().__init__(name=f"client-{number}", daemon=True)
        self._name = f"{prefix}{number}"
        self._number, self._url, self._items, self._record = number, url, items, record
        self._rng = np.random.default_rng((seed, number))
        self._ended = threading.Event()
        self._users = 0
        self._user_id = ""
        self._user_seq = 0
        self._undoable: list[str] = []
        self.seqs: dict[str, int] = {}
        """Each of its users, and their last acknowledged event."""
        self._own: dict[str, bool] = {}
        """Items of this client's own, and whether they exist at present."""

    def end(self) -> None:
        """Ask it to stop after the present request."""
        self._ended.set()

    def run(self) -> None:
        """Until `end`."""
        with httpx.Client(base_url=self._url, timeout=TIMEOUT_S) as http:
            self._next_user()
            self._event(http)
            while not self._ended.is_set():
                started_s = time.monotonic()
                self._act(http)
                self._ended.wait(max(0.0, PACE_S - (time.monotonic() - started_s)))

    def _act(self, http: httpx.Client) -> None:
        chance = self._rng.random()
        if chance < 0.35:
            self._event(http)
        elif chance < 0.90:
            self._recommend(http)
        else:
            self._item(http)

    def _next_user(self) -> None:
        self._users += 1
        self._user_id, self._user_seq = f"{self._name}-{self._users}", 0
        self._undoable = []

    def _event(self, http: httpx.Client) -> None:
        body: dict[str, Any] = {}
        if self._undoable and self._rng.random() < 0.2:
            undone = self._undoable.pop(int(self._rng.integers(len(self._undoable))))
            body |= {"kind": "undo", "undoes": undone}
        else:
            kind = str(self._rng.choice(KINDS))
            body |= {"kind": kind, "item_id": f"i{self._rng.integers(self._items)}"}
            if kind == "rating":
                body["value"] = float(self._rng.integers(1, 6))
        self._post_event(http, body)

    def _post_event(self, http: httpx.Client, body: dict[str, Any]) -> None:
        """Of the present user; `body` has its kind and what belongs to it."""
        if self._user_seq >= EVENTS_A_USER:
            self._next_user()
            if body["kind"] == "undo":
                return  # that was somebody else's
        event_id = f"e{self._user_seq + 1}"
        body |= {"user_id": self._user_id, "event_id": event_id}
        answer = self._send(http, "event", "POST", "/v1/events", json=body)
        if answer is None:
            self._next_user()  # whether it was stored is not known: nothing more is said of them
            return
        self._user_seq = answer["events"][0]["user_seq"]
        self.seqs[self._user_id] = self._user_seq
        self._record.acks.append(Ack(self._user_id, event_id, self._user_seq))
        if body["kind"] not in ("undo", "rating"):  # a rating may be taken back by the next one
            self._undoable.append(event_id)

    def _recommend(self, http: httpx.Client) -> None:
        self.ask_for(http, self._user_id)

    def ask_for(self, http: httpx.Client, user_id: str) -> None:
        """A list of one of its users, into the record."""
        k = int(self._rng.choice((5, 20, 50)))
        least = (self.seqs.get(user_id, 0), self._record.catalog_seq)
        path = f"/v1/users/{user_id}/recommendations"
        body = self._send(http, "recommend", "GET", path, params={"k": k})
        if body is None:
            return
        self._record.answers.append(
            Answer(
                user_id=user_id,
                k=k,
                generation=body["generation"],
                user_seq=body["user_seq"],
                catalog_seq=body["catalog_seq"],
                items=tuple((item["item_id"], item["score"]) for item in body["items"]),
                basis=body["basis"],
                degraded=tuple(body["degraded"]),
                least_user_seq=least[0],
                least_catalog_seq=least[1],
                shards_missing=tuple((body["shards"] or {}).get("missing", ())),
            )
        )

    def _item(self, http: httpx.Client) -> None:
        """Put a new one, edit one, delete one, or put a deleted one again."""
        new = len(self._own) < MAX_OWN_ITEMS
        name = f"{self._name}-item{len(self._own) if new else 0}"
        if self._own and (not new or self._rng.random() < 0.7):
            name = str(self._rng.choice(sorted(self._own)))
        path = f"/v1/items/{name}"
        if self._own.get(name) and self._rng.random() < 0.5:
            answer = self._send(http, "item", "DELETE", path)
            if answer is not None:
                self._own[name] = False
                self._record.acked_item(ItemAck(name, "delete", None, answer["catalog_seq"]))
            return
        title = made_title(self._rng)
        answer = self._send(http, "item", "PUT", path, json={"title": title})
        if answer is not None:
            self._own[name] = True
            self._record.acked_item(ItemAck(name, "put", title, answer["catalog_seq"]))

    def _send(
        self, http: httpx.Client, kind: Kind, method: str, path: str, **request: Any
    ) -> dict[str, Any] | None:
        """The answer's body; None, and a failure noted, for anything but 200."""
        started_s = time.monotonic()
        try:
            answer = http.request(method, path, **request)
        except httpx.HTTPError as error:
            self._record.failed(f"{method} {path}: {error!r}")
            return None
        finally:
            self._record.timings.append(Timing(kind, started_s, time.monotonic() - started_s))
        if kind in self.refusable and answer.status_code == 503 and "retry-after" in answer.headers:
            self._record.refused.append(kind)
            return None
        if answer.status_code != 200:
            self._record.failed(f"{method} {path}: {answer.status_code} {answer.text[:300]}")
            return None
        body: dict[str, Any] = answer.json()
        return body
