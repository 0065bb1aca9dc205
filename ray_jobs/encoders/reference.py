"""The user vector by torch, from a weights file: what the fold is held against.

Slow and plain: `UserLSTM.forward` over the effective history, nothing kept from one event to the
next. Shapes: L events, N distinct texts, E text_dim, D dim.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ray_jobs.encoders.fold import FoldEvent, effective
from ray_jobs.encoders.user_lstm import NO_RESIDUAL, UNKNOWN_TEXT, EventBatch, UserLSTM
from ray_jobs.encoders.weights import load_model


class Reference:
    """A generation's model in torch."""

    def __init__(self, model: UserLSTM, residual_ordinals: NDArray[np.int64]) -> None:
        self.model = model.eval()
        self._residual_rows = {int(o): row + 1 for row, o in enumerate(residual_ordinals)}

    @classmethod
    def load(cls, path: Path) -> "Reference":
        """Of a weights file. Raises WeightsError as `load_weights` does."""
        return cls(*load_model(path))

    @torch.inference_mode()
    def user_vector(self, events: Sequence[FoldEvent]) -> NDArray[np.float32] | None:
        """The unit user vector (D,) after a whole log, None where nothing of it counts."""
        counted = effective(events)
        if not counted:
            return None
        vector_D: NDArray[np.float32] = self.model(*self.batch(counted))[0, -1].numpy()
        return vector_D

    def batch(self, counted: Sequence[FoldEvent]) -> tuple[torch.Tensor, EventBatch]:
        """Texts (N, E) and one user's events, as `UserLSTM.forward` takes them."""
        config = self.model.config
        texts = [event.vector for event in counted if event.vector is not None]
        rows = iter(range(len(texts)))
        batch = EventBatch(
            texts_BL=torch.tensor(
                [[UNKNOWN_TEXT if e.vector is None else next(rows) for e in counted]]
            ),
            residuals_BL=torch.tensor([[self._residual_row(e.ordinal) for e in counted]]),
            kinds_BL=torch.tensor([[config.kinds.index(e.kind) for e in counted]]),
            ratings_BL=torch.tensor([[config.rating_bucket(e.kind, e.value) for e in counted]]),
        )
        texts_NE = np.array(texts, np.float32).reshape(-1, config.text_dim)
        return torch.from_numpy(texts_NE), batch

    def _residual_row(self, ordinal: int | None) -> int:
        return NO_RESIDUAL if ordinal is None else self._residual_rows.get(ordinal, NO_RESIDUAL)
