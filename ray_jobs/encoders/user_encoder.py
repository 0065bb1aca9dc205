"""The weights of one generation, laid out for the fold: states and vectors without torch.

Shapes: T events, N items, R residuals, E text_dim, D dim, H hidden, G = 4H gates.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ray_jobs.encoders.config import UserLSTMConfig
from ray_jobs.encoders.errors import SessionError
from ray_jobs.encoders.lstm_walk import NO_ITEM, lstm_walk, projected
from ray_jobs.encoders.session import Session

Floats = NDArray[np.float32]
Ordinals = NDArray[np.int64]

_CACHE_LINE = 64


class FedEvent(Protocol):
    """What the LSTM's input needs of an event; `fold.FoldEvent` is one."""

    @property
    def kind(self) -> str: ...
    @property
    def ordinal(self) -> int | None: ...
    @property
    def vector(self) -> Floats | None: ...
    @property
    def value(self) -> float | None: ...


def unit_rows(rows: Floats) -> Floats:
    """Rows (or one row) scaled to length 1; shorter than 1e-12 stays near 0, as in torch."""
    norms = np.sqrt(np.sum(rows * rows, axis=-1, keepdims=True))
    scaled: Floats = rows / np.maximum(norms, np.float32(1e-12))
    return scaled


class UserEncoder:
    """A user encoder read from a weights file (`weights.load_weights`). Immutable, thread-safe."""

    def __init__(
        self,
        config: UserLSTMConfig,
        tensors: Mapping[str, Floats],
        residual_ordinals_R: Ordinals,
        digest: str,
    ) -> None:
        self.config = config
        self.digest = digest
        self.dim, self.hidden, self.text_dim = config.dim, config.hidden, config.text_dim
        self.residual_ordinals_R = residual_ordinals_R
        self._residual_RD = tensors["residual"]
        self._text_ED = _aligned(tensors["text.weight"].T)
        self._text_bias_D = tensors["text.bias"]
        self._kind_rows = {kind: row for row, kind in enumerate(config.kinds)}
        # What an event is fed besides text and residual, by kind and rating bucket: with the vector
        # that stands in where there is no text, and with the bias of the text where there is one.
        given_KRD = tensors["kind"][:, None] + tensors["rating"]
        given_2KRD = np.stack([given_KRD + tensors["unknown"], given_KRD + self._text_bias_D])
        # torch's gates i, f, g, o become i, f, o, g, and the first three are halved, as `lstm_walk`
        # has them.
        input_DG, hidden_HG = _gates(tensors["lstm.weight_ih"]), _gates(tensors["lstm.weight_hh"])
        self.products = self._text_ED, input_DG, hidden_HG
        """What one event is multiplied with: text (E, D), input (D, G) and hidden (H, G)."""
        bias_G = _gates(tensors["lstm.bias"][:, None])[0]
        # After each event pooled = keep x pooled + add x h.
        decay = np.float32(config.ema_decay)
        is_ema = config.pooling == "ema"
        keep_and_add = (decay, np.float32(1) - decay) if is_ema else (np.float32(1),) * 2
        self._weights = (
            *(given_2KRD, residual_ordinals_R, self._residual_RD),
            *(*self.products, bias_G, *keep_and_add),
        )
        self._no_texts = np.zeros((0, self.text_dim), np.float32)
        self._out_HD = np.ascontiguousarray(tensors["out.weight"].T)
        self._out_bias_D = tensors["out.bias"]
        self._zero = Session(
            user_seq=0,
            h=np.zeros(self.hidden, np.float32),
            c=np.zeros(self.hidden, np.float32),
            pooled=np.zeros(0 if config.pooling == "last" else self.hidden, np.float32),
            steps=0,
            seen=np.zeros(0, np.int64),
            seen_kinds=np.zeros(0, np.uint8),
            bought_ms=np.zeros(0, np.int64),
            excluded=np.zeros(0, np.int64),
            recent=np.zeros(0, np.int64),
        )
        for array in (self._zero.h, self._zero.c, self._zero.pooled):
            array.flags.writeable = False
        self._sizes = self._zero.sizes

    def zero(self) -> Session:
        """The session of a user who did nothing yet."""
        return self._zero

    def residuals(self, ordinals_N: Ordinals) -> Floats:
        """Residuals (N, D) of items; zero where an item has none."""
        ordinals_N = np.asarray(ordinals_N, dtype=np.int64)
        found_ND = np.zeros((len(ordinals_N), self.dim), dtype=np.float32)
        if len(self.residual_ordinals_R):
            rows_N = np.searchsorted(self.residual_ordinals_R, ordinals_N)
            rows_N = np.minimum(rows_N, len(self.residual_ordinals_R) - 1)
            known_N = self.residual_ordinals_R[rows_N] == ordinals_N
            found_ND[known_N] = self._residual_RD[rows_N[known_N]]
        return found_ND

    def item_vectors(self, bert_NE: Floats, ordinals_N: Ordinals) -> Floats:
        """Unit item vectors (N, D) from the BERT vectors of the items' texts.

        Raises:
            ValueError: another text width, or not one ordinal a row.
        """
        bert_NE = np.asarray(bert_NE, dtype=np.float32)
        if bert_NE.shape != (len(ordinals_N), self.text_dim):
            wanted = (len(ordinals_N), self.text_dim)
            raise ValueError(f"bert vectors have shape {bert_NE.shape}, expected {wanted}")
        return unit_rows(bert_NE @ self._text_ED + self._text_bias_D + self.residuals(ordinals_N))

    def text_vectors(self, bert_NE: Floats) -> Floats:
        """Unit vectors (N, D) of texts that are no items: what a search is looked up with."""
        return unit_rows(np.asarray(bert_NE, dtype=np.float32) @ self._text_ED + self._text_bias_D)

    def walk(self, events: Sequence[FedEvent], start: Session) -> tuple[Floats, Floats, Floats]:
        """h, c and pooled after one user's events, one after the other.

        Raises:
            ValueError: a kind these weights do not know, or a vector of another width.
            SessionError: a session of another encoder's size.
        """
        self.check_fits(start)
        fed_T4 = np.array([self._fed(event) for event in events], np.int64)
        h_1H, c_H, pooled_P = start.h[None].copy(), start.c.copy(), start.pooled.copy()
        lstm_walk(fed_T4, self._texts_of(events), *self._weights, h_1H, c_H, pooled_P)
        return h_1H[0], c_H, pooled_P

    def check_fits(self, session: Session) -> None:
        """Raises SessionError for a session that another encoder's state is in: kernels check no
        index."""
        if session.sizes != self._sizes:
            sizes, ours = session.sizes, self._sizes
            raise SessionError(f"h, c and pooled are {sizes} numbers, these weights have {ours}")

    def _fed(self, event: FedEvent) -> tuple[int, int, int, int]:
        """Whether it has a text, the rows of its kind and its rating bucket, and its ordinal."""
        kind = self._kind_rows.get(event.kind)
        if kind is None:
            accepted = ", ".join(self.config.kinds)
            raise ValueError(f"kind {event.kind!r} is unknown to these weights: {accepted}")
        bucket = self.config.rating_bucket(event.kind, event.value)
        ordinal = NO_ITEM if event.ordinal is None else event.ordinal
        return int(event.vector is not None), kind, bucket, ordinal

    def _texts_of(self, events: Sequence[FedEvent]) -> Floats:
        """Vectors (N, E) of those events that have a text."""
        vectors = [event.vector for event in events if event.vector is not None]
        if not vectors:
            return self._no_texts
        if len(vectors) == 1:  # what the day folds for almost every answer
            texts_NE = np.ascontiguousarray(vectors[0], np.float32)[None]
        else:
            texts_NE = np.array(vectors, np.float32)
        if texts_NE.shape[1:] != (self.text_dim,):
            raise ValueError(f"text vectors have shape {texts_NE.shape[1:]}, not {self.text_dim}")
        return texts_NE

    def pooled_state(self, h: Floats, pooled: Floats, steps: int) -> Floats:
        """What the user vector is read from."""
        if self.config.pooling == "last":
            return h
        return pooled / np.float32(steps) if self.config.pooling == "mean" else pooled

    def user_vector(self, pooled: Floats) -> Floats:
        """The unit user vector (D,) of a pooled state (H,), of a session that was checked."""
        unit_1D = np.empty((1, self.dim), np.float32)
        projected(pooled[None], self._out_HD, self._out_bias_D, unit_1D)
        unit_D: Floats = unit_1D[0]
        return unit_D


def _gates(weights_GX: Floats) -> Floats:
    """(4H, X) in torch's order i, f, g, o -> (X, 4H) in the order i, f, o, g, first 3 halved."""
    i, f, g, o = np.split(weights_GX, 4)
    half = np.float32(0.5)
    return _aligned(np.concatenate([i * half, f * half, o * half, g]).T)


def _aligned(weights: Floats) -> Floats:
    """A copy by rows that begins at a cache line: numpy's begin at any multiple of 16 bytes, and
    where it is a bad one a product with a vector takes a quarter longer."""
    room = np.empty(weights.nbytes + _CACHE_LINE, np.uint8)
    first = -room.ctypes.data % _CACHE_LINE
    aligned: Floats = room[first : first + weights.nbytes].view(np.float32).reshape(weights.shape)
    aligned[...] = weights
    return aligned
