"""Our model as it ships: weights by `ray_jobs.encoders.fit`, user vectors by the fold.

`Moonlark` is the user vector alone: items in the order of the cosine. A lesson trains, or, where
the last training is younger than `days`, keeps the weights; histories are folded event by event
either way. Users without a history are shown what was popular in the last days (`OrPopular`).

Shapes: I items, E events, T text_dim, D dim.
"""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from infra.evaluation.interactions import Ints
from infra.evaluation.log import Log
from infra.evaluation.rankers.every import Every
from infra.evaluation.task import Floats, Lesson, Question
from ray_jobs import encoders
from ray_jobs.encoders.config import KINDS
from ray_jobs.encoders.fit import EpochReport, TrainConfig, fit, nightly
from ray_jobs.encoders.fold import FoldEvent, Session, fold, user_vector
from ray_jobs.encoders.train_data import TrainData, from_columns
from ray_jobs.encoders.user_encoder import UserEncoder
from ray_jobs.encoders.weights import load_weights, save_weights
from ray_jobs.shards.atomic import whole_file

Say = Callable[[str], None]


class Moonlark:
    """Trains by `config`; the weights of a training that was done before are read from `cache`.

    `saved_fit_s`: CPU seconds that the trainings took whose weights were read: what this process
    did not spend, and a fit costs.
    """

    def __init__(
        self,
        config: TrainConfig,
        bert_IT: NDArray[np.float32],
        cache: Path,
        say: Say = lambda line: None,
        days: int = 84,
    ) -> None:
        self._config, self._bert_IT, self._cache, self._say = config, bert_IT, cache, say
        self._every = Every(days)
        self.saved_fit_s = 0.0
        self._encoder: UserEncoder | None = None
        self._items_ID = np.zeros((0, 0), np.float32)
        self._sessions: dict[int, tuple[int, Session]] = {}

    @classmethod
    def of(cls, encoder: UserEncoder, bert_IT: NDArray[np.float32]) -> "Moonlark":
        """With weights that were learned elsewhere: not to be fitted."""
        made = cls(nightly(), bert_IT, Path())
        made._take(encoder)
        return made

    @property
    def encoder(self) -> UserEncoder:
        """Of the last training."""
        assert self._encoder is not None, "fit comes first"
        return self._encoder

    @property
    def items_ID(self) -> NDArray[np.float32]:
        """Unit vectors of all items, also of those to come (of their text alone)."""
        return self._items_ID

    def fit(self, log: Log, lesson: Lesson) -> None:
        if not self._every.is_due(log, lesson):
            return
        data = train_data(log, lesson, self._bert_IT)
        path = self._cache / f"{_key(self._config, data)}.safetensors"
        seconds = path.with_suffix(".json")
        if path.is_file() and seconds.is_file():
            self.saved_fit_s += float(json.loads(seconds.read_bytes())["fit_s"])
        else:
            started = time.process_time()
            save_weights(path, fit(self._config, data, on_epoch=self._told))
            took = {"fit_s": time.process_time() - started}
            with whole_file(seconds) as temporary:
                temporary.write_text(json.dumps(took), encoding="utf-8")
        self._take(load_weights(path))

    def _take(self, encoder: UserEncoder) -> None:
        self._encoder = encoder
        self._items_ID = encoder.item_vectors(self._bert_IT, np.arange(len(self._bert_IT)))
        self._sessions.clear()

    def _told(self, report: EpochReport) -> None:
        self._say(
            f"epoch {report.epoch + 1} of {self._config.epochs}: loss {report.loss:.3f}, "
            f"validation NDCG@10 {report.valid_ndcg:.4f}, {report.seconds:.1f} s"
        )

    def vector(self, log: Log, question: Question) -> NDArray[np.float32] | None:
        """The user vector (D,) of the question's history, None for an empty one."""
        return user_vector(self.encoder, self.session(log, question))

    def session(self, log: Log, question: Question) -> Session:
        """Folded on from the user's last question, as by day."""
        done, session = self._sessions.get(question.user, (0, self.encoder.zero()))
        if done > len(question.history):  # an earlier question: asked out of order
            done, session = 0, self.encoder.zero()
        tail = question.history[done:]
        session = fold(self.encoder, session, self.events(log, tail, done + 1))
        self._sessions[question.user] = (len(question.history), session)
        return session

    def scores(self, log: Log, question: Question) -> Floats:
        vector_D = self.vector(log, question)
        if vector_D is None:
            return np.zeros(len(self._items_ID), np.float32)
        scores_I: Floats = self._items_ID @ vector_D
        return scores_I

    def events(self, log: Log, rows: Ints, first_seq: int) -> list[FoldEvent]:
        """These rows of one user as the day folds them."""
        events = log.interactions
        return [
            FoldEvent(
                user_seq=seq,
                kind=KINDS[events.kinds_E[row]],
                ordinal=int(events.items_E[row]),
                vector=self._bert_IT[events.items_E[row]],
                value=None if np.isnan(value := float(events.values_E[row])) else value,
                at_ms=int(events.at_ms_E[row]),
            )
            for seq, row in enumerate(rows.tolist(), start=first_seq)
        ]


def train_data(log: Log, lesson: Lesson, bert_IT: NDArray[np.float32]) -> TrainData:
    """The lesson as the night's export has it; the catalog is what was published by then."""
    events = log.interactions
    rows = np.union1d(lesson.rows, lesson.held_out)
    rows = rows[np.argsort(events.users_E[rows], kind="stable")]
    items_E = events.items_E[rows]
    published = events.published_ms_I
    catalog = np.arange(events.item_count)
    if published is not None and lesson.at_ms:
        catalog = np.union1d(np.flatnonzero(published <= lesson.at_ms), items_E)
    return from_columns(
        users_E=events.users_E[rows],
        ordinals_E=items_E,
        texts_E=items_E,
        kinds_E=[KINDS[kind] for kind in events.kinds_E[rows].tolist()],
        values_E=events.values_E[rows],
        held_out_E=np.isin(rows, lesson.held_out),
        bert_NT=bert_IT,
        item_ordinals_I=catalog,
        item_texts_I=catalog,
        at_ms_E=events.at_ms_E[rows],
    )


def _key(config: TrainConfig, data: TrainData) -> str:
    """Of all that decides the weights, the code that trains them among it."""
    digest = hashlib.blake2b(repr(sorted(asdict(config).items())).encode(), digest_size=12)
    digest.update(version("torch").encode())
    for module in sorted(Path(encoders.__path__[0]).glob("*.py")):
        digest.update(module.read_bytes())
    columns = (data.offsets_U1, data.items_E, data.kinds_E, data.values_E, data.held_out_E)
    for column in (*columns, data.moments_E, data.item_ordinals_I, data.bert_NT):
        digest.update(np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()
