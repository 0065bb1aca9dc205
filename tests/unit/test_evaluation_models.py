"""The models of the table, on logs small enough to know the answer by hand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from infra.evaluation.figures import diversity, facts_of
from infra.evaluation.interactions import DAY_MS, Interactions, ReplayRule, from_columns
from infra.evaluation.log import Log
from infra.evaluation.rankers import als
from infra.evaluation.rankers.choosing import Blend, Chosen, OrPopular
from infra.evaluation.rankers.ease import Ease
from infra.evaluation.rankers.every import Every
from infra.evaluation.rankers.neighbours import Cooccurrence, ItemKNN, SequentialKNN
from infra.evaluation.rankers.popularity import Popularity
from infra.evaluation.rankers.sasrec import SasRec
from infra.evaluation.rankers.text_mean import TextMean
from infra.evaluation.replay import replay
from infra.evaluation.task import Lesson, Question, Ranker
from infra.evaluation.walk import first_items, score, walk

NONE = np.zeros(0, np.int64)
GROUPS, EACH = 4, 6


def groups(users: int = 60) -> Interactions:
    """Each user takes the items of one of four groups, in their order; a user a day."""
    rng = np.random.default_rng(0)
    events = []
    for user in range(users):
        group = user % GROUPS
        kept = np.sort(rng.choice(EACH, EACH - 1, replace=False))
        events += [
            (user, group * EACH + item, user * DAY_MS + step) for step, item in enumerate(kept)
        ]
    columns = np.array(events, np.int64).T
    texts = [f"group {item // EACH}" for item in range(GROUPS * EACH)]
    rule = ReplayRule(cut_ms=45 * DAY_MS, validation_days=10)
    return from_columns("groups", texts, *columns, "view", rule=rule)


def question(history: np.ndarray, **changes: object) -> Question:
    made = Question(0, 0, history, NONE, 0, 0, 0, np.array([0]), None)
    return replace(made, **changes)  # type: ignore[arg-type]


def text_vectors() -> np.ndarray:
    return np.repeat(np.eye(GROUPS, dtype=np.float32), EACH, axis=0)


MODELS: dict[str, Ranker] = {
    "item-knn": ItemKNN(5),
    "sequential-knn": SequentialKNN(0.9, 50),
    "ease": Ease(1.0),
    "text": TextMean(text_vectors()),
    "sasrec": SasRec(0),
}
if als.is_installed():
    MODELS["als"] = als.Als(8, 0.01, 10.0, 0)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_finds_the_group_of_a_user_it_never_learned_from(name: str) -> None:
    """All users after the cut are new: their histories are all that is known of them."""
    task = replay(groups(), "live")
    answers = walk(task, OrPopular(MODELS[name], (30.0,)))
    with_history = facts_of(task).history_Q > 0
    popular = walk(task, Popularity())
    assert answers.ndcg_Q[with_history].mean() > popular.ndcg_Q[with_history].mean() + 0.15
    lately = walk(task, Popularity(30))  # what users without a history are shown
    assert np.array_equal(answers.ndcg_Q[~with_history], lately.ndcg_Q[~with_history])


def test_cooccurrence_grown_day_by_day_is_the_one_counted_at_once() -> None:
    log = Log(groups())
    grown, at_once = Cooccurrence(), Cooccurrence()
    for end in (200, 230, 231, 260):
        grown.learn(log, np.arange(end))
    at_once.learn(log, np.arange(260))
    assert np.array_equal(grown.counts_II, at_once.counts_II)


def test_the_newest_item_of_a_history_weighs_most() -> None:
    events = from_columns(
        "two",
        ["a", "b", "near a", "near b"],
        np.array([0, 0, 1, 1, 2, 2]),
        np.array([0, 2, 1, 3, 0, 1]),
        np.arange(6),
        "view",
    )
    log = Log(events)
    model = SequentialKNN(0.5, 10)
    model.fit(log, Lesson(0, np.arange(4), NONE))
    scores = model.scores(log, question(np.array([4, 5])))  # a, then b
    assert scores[3] == pytest.approx(2 * scores[2])


def test_options_are_chosen_by_validation_alone() -> None:
    task = replay(groups(), "live")

    class Knows:
        """Right on validation and wrong after it, or the other way round."""

        def __init__(self, until_ms: float) -> None:
            self.until_ms = until_ms

        def fit(self, log: Log, lesson: Lesson) -> None: ...

        def scores(self, log: Log, question: Question) -> np.ndarray:
            scores = np.zeros(GROUPS * EACH)
            scores[question.relevant] = 1.0 if question.at_ms < self.until_ms else -1.0
            return scores

    cut = 45 * DAY_MS
    chosen = Chosen({"never": lambda: Knows(0), "before the cut": lambda: Knows(cut)})
    answers = walk(task, chosen)
    assert chosen.choice == "before the cut"
    assert answers.ndcg_Q.mean() < 0.5  # the test did not choose


def test_a_blend_takes_popularity_only_where_it_helps() -> None:
    task = replay(groups(), "live")
    blend = Blend(lambda: SequentialKNN(0.9, 50), (30.0,), (0.0, 5.0))
    walk(task, blend)
    assert blend.choice == "0 x popularity of 30 days"  # the groups take turns
    empty = Blend(lambda: TextMean(np.ones((GROUPS * EACH, 2), np.float32)), (4.0,), (0.0, 5.0))
    walk(task, empty)
    assert empty.choice == "0 x popularity of 4 days" or empty.choice.startswith("5 x")


class SaysWhen:
    """Learned anew every week; tells at which lessons, and with how many events."""

    def __init__(self, learned: list[tuple[int, int]]) -> None:
        self.every, self.learned = Every(7), learned

    def __deepcopy__(self, memo: object) -> "SaysWhen":
        return SaysWhen(self.learned)

    def fit(self, log: Log, lesson: Lesson) -> None:
        if self.every.is_due(log, lesson):
            self.learned.append((lesson.at_ms, len(lesson.rows)))

    def scores(self, log: Log, question: Question) -> np.ndarray:
        return np.zeros(GROUPS * EACH)


def test_a_blend_learns_at_the_cut_whatever_it_learned_to_choose_by() -> None:
    task = replay(groups(), "nightly+live", nights=1)
    learned: list[tuple[int, int]] = []
    blend = Blend(lambda: SaysWhen(learned), (30.0,), (0.0, 5.0))
    assert task.validation is not None
    blend.tune(task.validation)
    cut_ms = 45 * DAY_MS
    assert max(at_ms for at_ms, _ in learned) > cut_ms - 7 * DAY_MS
    learned.clear()
    lesson, _ = next(iter(task.steps))
    blend.fit(task.log, lesson)
    assert learned == [(cut_ms, len(lesson.rows))]


def test_ties_go_to_the_catalogs_order_and_barred_items_are_not_listed() -> None:
    scores = np.array([1.0, 3.0, 1.0, -np.inf, 3.0, 1.0])
    assert first_items(scores, 4).tolist() == [1, 4, 0, 2]
    assert first_items(scores, 6).tolist() == [1, 4, 0, 2, 5, -1]
    assert first_items(scores, 8).tolist() == [1, 4, 0, 2, 5, -1, -1, -1]


def test_a_question_is_scored_as_by_hand() -> None:
    scores = np.arange(20, 0, -1).astype(float)
    listed = first_items(scores, 10)
    gain = 1 / np.log2(np.arange(2, 12))
    ndcg, hit, reciprocal = score(scores, listed, np.array([1, 4, 15]))
    assert ndcg == pytest.approx((gain[1] + gain[4]) / gain[:3].sum())
    assert (hit, reciprocal) == (1.0, 0.5)
    assert score(scores, listed, np.array([15])) == (0.0, 0.0, 1 / 16)
    same = np.ones(20)  # the reciprocal rank knows the order of the catalog, too
    assert score(same, first_items(same, 10), np.array([3])) == (gain[3], 1.0, 1 / 4)
    assert score(scores, listed, np.arange(12))[0] == pytest.approx(1.0)
    scores[15] = -np.inf
    assert score(scores, listed, np.array([15])) == (0.0, 0.0, 0.0)


def test_diversity_is_one_less_the_mean_cosine() -> None:
    vectors = np.array([[1, 0], [2, 0], [0, 1]], np.float32)
    assert diversity(np.array([[0, 1, -1]]), vectors) == pytest.approx(0)
    assert diversity(np.array([[0, 1, 2]]), vectors) == pytest.approx(2 / 3)


def test_plots_are_drawn_where_matplotlib_is(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the extra [evaluation] is not installed")
    from infra.evaluation.evaluate import Request, evaluate
    from infra.evaluation.plots import draw

    (table,) = evaluate(groups(), Request(models=("popularity",), protocol="replay"))
    paths = draw(table, tmp_path, "groups")
    assert [path.name for path in paths] == [f"groups-{n}.png" for n in ("history", "age", "hours")]
    assert all(path.stat().st_size > 1_000 for path in paths)
