"""The requests of the bench as bytes, each with the key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from infra.bench.serving.made_catalog import item_id, user_id
from infra.bench.serving.sender import Visit

K = 20
EVENTS_PATH = "/v1/events"


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks: what is the same in each request. `run`: makes the event ids its own."""

    secret: str
    run: str

    def get(self, path: str) -> bytes:
        """A GET of `path`."""
        return f"GET {path} HTTP/1.1\r\n{self._head}\r\n".encode()

    def list_of(self, user: int) -> bytes:
        """The user's list."""
        return self.get(f"/v1/users/{user_id(user)}/recommendations?k={K}")

    def click(self, user: int, item: int, number: int) -> bytes:
        """One event."""
        return self._post(self._event(user, item, number))

    def batch(self, clicks: Sequence[tuple[int, int, int]]) -> bytes:
        """Many events in one post: (user, item, number) of each."""
        return self._post({"events": [self._event(*click) for click in clicks]})

    def search(self, user: int, text: str, number: int) -> bytes:
        """A search event, which BERT reads before it is stored."""
        return self._post(
            {
                "user_id": user_id(user),
                "kind": "search",
                "text": text,
                "event_id": self.event_id(number),
            }
        )

    def visit(self, user: int, item: int, number: int) -> Visit:
        """A click, and the list that must reflect it."""
        requests = (self.click(user, item, number), self.list_of(user))
        return Visit(requests, item_id(item), K)

    def _event(self, user: int, item: int, number: int) -> dict[str, str]:
        return {
            "user_id": user_id(user),
            "kind": "click",
            "item_id": item_id(item),
            "event_id": self.event_id(number),
        }

    def event_id(self, number: int) -> str:
        """Of the event with that number in this run."""
        return f"{self.run}-{number}"

    def _post(self, content: object) -> bytes:
        body = orjson.dumps(content)
        head = f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
        return f"POST {EVENTS_PATH} HTTP/1.1\r\n{self._head}{head}\r\n".encode() + body

    @property
    def _head(self) -> str:
        return f"Host: 127.0.0.1\r\nauthorization: Bearer {self.secret}\r\n"
