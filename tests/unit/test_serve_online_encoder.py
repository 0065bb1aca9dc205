"""BERT that does not answer is waited for by few, and asked again by itself when it is back."""

import asyncio

import numpy as np
import pytest

from serve.online_encoder import Embedded, EncoderUnavailable, OnlineEncoder
from serve.patience import LEFT_ALONE_S, MISSES_UNTIL_LEFT_ALONE

TIMEOUT_S = 0.01


class Bert:
    def __init__(self) -> None:
        self.hangs = False
        self.asked = 0

    async def __call__(self, texts: list[str]) -> Embedded:
        self.asked += 1
        if self.hangs:
            await asyncio.Event().wait()
        return "e", np.ones((len(texts), 2), np.float32)


def test_while_bert_hangs_one_request_a_second_waits_for_it_and_the_others_do_not() -> None:
    now_s, bert = 0.0, Bert()

    async def through_a_fault() -> None:
        nonlocal now_s
        encoder = OnlineEncoder(bert, TIMEOUT_S, lambda: now_s)
        assert (await encoder.embed(["a", "b"]))[1].shape == (2, 2)
        bert.hangs, bert.asked = True, 0
        for _ in range(MISSES_UNTIL_LEFT_ALONE + 10):
            with pytest.raises(EncoderUnavailable):
                await encoder.embed(["a"])
        assert bert.asked == MISSES_UNTIL_LEFT_ALONE
        now_s += LEFT_ALONE_S
        for _ in range(10):
            with pytest.raises(EncoderUnavailable):
                await encoder.embed(["a"])
        assert bert.asked == MISSES_UNTIL_LEFT_ALONE + 1
        bert.hangs = False
        now_s += LEFT_ALONE_S
        for _ in range(3):
            assert (await encoder.embed(["a"]))[0] == "e"

    asyncio.run(through_a_fault())
