"""The day's way to BERT, which is another process and may be slow or gone."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import numpy as np
from numpy.typing import NDArray

from serve.patience import Patience

Embedded = tuple[str, NDArray[np.float32]]
"""(encoder id, unit vectors (N, text_dim))."""

EmbedTexts = Callable[[list[str]], Awaitable[Embedded]]

TEXTS_A_TIMEOUT = 20
"""A request with this many texts more may take one timeout more."""


class EncoderUnavailable(Exception):
    """BERT did not answer in time, or not at all."""


class OnlineEncoder:
    """Embeds cleaned texts, or says within a bounded time that it cannot: at once, while it is
    known that BERT does not answer."""

    def __init__(
        self,
        embed: EmbedTexts,
        timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._embed = embed
        self._timeout_s = timeout_s
        self._patience = Patience(clock)

    async def embed(self, texts: list[str]) -> Embedded:
        """Encoder id and unit vectors (N, text_dim).

        Raises:
            EncoderUnavailable: whatever the reason; the caller decides what can be done without.
        """
        if not self._patience.is_asked():
            raise EncoderUnavailable("it did not answer others")
        timeout_s = self._timeout_s * (1 + len(texts) / TEXTS_A_TIMEOUT)
        try:
            embedded = await asyncio.wait_for(self._embed(texts), timeout_s)
        except Exception as error:
            self._patience.missed()
            raise EncoderUnavailable(repr(error)) from error
        self._patience.answered()
        return embedded
