"""One long list of texts does not hold up the others: BERT goes to who waits, slice by slice."""

import asyncio

import numpy as np
import pytest
from numpy.typing import NDArray

from serve import text_encoder
from serve.settings import ServeSettings
from serve.text_encoder import SLICE, TextEncoder


class _Bert:
    """Says in which order it was asked; a text's vector is its number."""

    encoder_id = "bert"

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def encode(self, texts: list[str]) -> NDArray[np.float32]:
        self.asked.append(texts)
        return np.array([[float(text.split()[0])] for text in texts], np.float32)


@pytest.fixture
def bert(monkeypatch: pytest.MonkeyPatch) -> _Bert:
    fake = _Bert()
    monkeypatch.setattr(text_encoder, "open_bert", lambda _: fake)
    return fake


def test_a_long_list_keeps_its_order(bert: _Bert) -> None:
    texts = [f"{n} {'word ' * (n % 7)}" for n in range(3 * SLICE + 1)]
    encoder_id, vectors = asyncio.run(TextEncoder(ServeSettings()).embed_many(texts))
    assert encoder_id == "bert"
    assert vectors[:, 0].tolist() == [float(n) for n in range(3 * SLICE + 1)]
    assert max(map(len, bert.asked)) == SLICE


def test_a_single_text_waits_for_a_slice_not_for_the_list(bert: _Bert) -> None:
    async def both() -> None:
        encoder = TextEncoder(ServeSettings())
        many = asyncio.create_task(encoder.embed_many([str(n) for n in range(20 * SLICE)]))
        while not bert.asked:
            await asyncio.sleep(0)
        await asyncio.gather(many, encoder.embed_many(["7777"]))

    asyncio.run(both())
    assert bert.asked.index(["7777"]) <= 3
