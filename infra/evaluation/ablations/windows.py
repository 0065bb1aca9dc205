"""The shipped user vector, read from the end of a history alone instead of all of it."""

from infra.evaluation.log import Log
from infra.evaluation.rankers.moonlark import Moonlark
from infra.evaluation.task import Question
from ray_jobs.encoders.fold import fold
from ray_jobs.encoders.session import Session


class Windowed(Moonlark):
    """Folds the last `last` events of a question's history anew; all where it is None."""

    last: int | None = None

    def session(self, log: Log, question: Question) -> Session:
        if self.last is None:
            return super().session(log, question)
        tail = question.history[-self.last :]
        first_seq = len(question.history) - len(tail) + 1
        return fold(self.encoder, self.encoder.zero(), self.events(log, tail, first_seq))
