"""A list waits a moment for texts that are embedded late; what takes longer goes on by itself."""

import asyncio
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from serve.late_texts import MAX_USERS, LateTexts
from serve.online_encoder import Embedded, OnlineEncoder
from sql.event import EventKind
from sql.events import StoredEvent

WAIT_S = 0.01


def search(user_key: int) -> StoredEvent:
    event: dict[str, Any] = dict.fromkeys(field.name for field in fields(StoredEvent))
    event |= {"user_key": user_key, "user_seq": 1, "kind": EventKind.SEARCH, "text": "space"}
    return StoredEvent(**event)


class Kept(LateTexts):
    """Keeps what would be stored."""

    def __init__(self, encoder: OnlineEncoder) -> None:
        super().__init__(cast(Any, None), encoder, WAIT_S)
        self.stored: list[int] = []

    def _store(self, _: str, events: Sequence[StoredEvent], __: NDArray[np.float32]) -> None:
        self.stored += [event.user_key for event in events]


class Bert:
    def __init__(self) -> None:
        self.asked = 0
        self.may_answer = asyncio.Event()

    async def __call__(self, texts: list[str]) -> Embedded:
        self.asked += 1
        await self.may_answer.wait()
        return "e", np.ones((len(texts), 2), np.float32)


def test_a_list_does_not_wait_for_slow_bert_and_the_next_one_has_its_work() -> None:
    async def lists() -> None:
        bert = Bert()
        late = Kept(OnlineEncoder(bert, 60))
        for _ in range(3):
            assert not await late.embed([search(7)])
        assert bert.asked == 1  # three lists of one user ask once
        bert.may_answer.set()
        while not late.stored:
            await asyncio.sleep(0)
        assert late.stored == [7]
        assert await late.embed([search(8)])
        assert late.stored == [7, 8]
        await late.stop()

    asyncio.run(lists())


def test_no_more_users_than_that_wait_for_bert_at_a_time() -> None:
    async def lists() -> None:
        bert = Bert()
        late = Kept(OnlineEncoder(bert, 60))
        users = [late.embed([search(key)]) for key in range(MAX_USERS + 20)]
        assert not any(await asyncio.gather(*users))
        assert bert.asked == MAX_USERS
        await late.stop()
        assert late.stored == []

    asyncio.run(lists())
