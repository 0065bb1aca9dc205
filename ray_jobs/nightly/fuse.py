"""Step 5. What a list is made from besides the user vector, and how much each thing counts.

Each validation event, which the user encoder was not trained on, is one question: of the
candidates that the day would have had, which one did the user take? That teaches the weights of
re-ranking (`ray_jobs.ranking.fusion`). Written with them: the activity of all items up to the
export, and the neighbours of each item.

A log too small to hold anything out gets no fusion: its lists are ordered by cosine.

Run: python -m ray_jobs.nightly.fuse --generation ID
"""

import logging
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ray_jobs.encoders.config import SEEN_KINDS
from ray_jobs.encoders.weights import load_weights
from ray_jobs.nightly.build import item_vectors
from ray_jobs.nightly.histories import NONE, Histories, open_histories
from ray_jobs.nightly.holdout import held_out, validation
from ray_jobs.nightly.replay import Model, Replay, questions_of, weights_of
from ray_jobs.nightly.step import Night, Report, main
from ray_jobs.nightly.workspace import Workspace
from ray_jobs.ranking.activity import Activity
from ray_jobs.ranking.fusion import FEATURES, Fusion
from ray_jobs.ranking.fusion_fit import MIN_QUESTIONS, Question, fit_fusion
from ray_jobs.ranking.neighbours import Neighbours, count_neighbours
from ray_jobs.ranking.priors import Priors
from ray_jobs.ranking.trend import HOUR_MS, Counts
from ray_jobs.shards.atomic import whole_file

log = logging.getLogger("moonlark.night")

QUESTIONS_A_USER = 20


def fuse(night: Night) -> Report:
    """Write the priors of the generation, where there are questions enough."""
    night.workspace.require_report("build")
    histories = open_histories(night.workspace)
    held_E = held_out(histories, night.settings)
    asked_E = validation(histories, held_E, night.settings)
    before_E = histories.effective_E & ~held_E & ~asked_E
    model = model_of(night.workspace, neighbours_of(histories, before_E, night.workspace))
    questions = questions_of(
        histories,
        asked_E,
        model.ordinals_N,
        a_user=QUESTIONS_A_USER,
        most=night.settings.fusion_questions,
    )
    fusion = _learn(Replay(model, histories, questions))
    report: Report = {"questions": len(questions)}
    if fusion is None:
        log.info("no fusion: %d questions, at least %d are needed", len(questions), MIN_QUESTIONS)
        return report
    report["answerable"] = fusion.questions
    hour = night.workspace.require_report("export")["activity_hour"]
    fusion = fusion.model_copy(update={"activity_hour": hour})
    priors = priors_of(night.workspace, histories, fusion)
    priors.write(night.workspace.directory, whole_file)
    return {**report, "neighbours": len(priors.neighbours.ordinals_E), "weights": _told(fusion)}


def priors_of(workspace: Workspace, histories: Histories, fusion: Fusion) -> Priors:
    """With these weights, what the whole exported log says: the files of the generation."""
    return Priors(
        fusion,
        _activity(workspace, histories, fusion.activity_hour),
        neighbours_of(histories, histories.effective_E, workspace),
    )


def _learn(replay: Replay) -> Fusion | None:
    """From the questions whose item is among the candidates: the others, re-ranking cannot help."""
    lively: list[Question] = []
    quiet: list[Question] = []
    months: list[float] = []
    for question, found, evidence, month in replay.evidence():
        place = int(np.searchsorted(found, question.ordinal))
        if place < len(found) and found[place] == question.ordinal:
            lively.append(Question(evidence.features(question.at_ms), place))
            quiet.append(Question(evidence.features(question.at_ms, quiet=True), place))
            months.append(month)
    return fit_fusion(lively, quiet, float(np.mean(months)) if months else 0.0)


def model_of(
    workspace: Workspace,
    neighbours: Neighbours,
    fusion: Fusion | None = None,
    directory: Path | None = None,
) -> Model:
    """Tonight's catalog, answered by the weights in `directory`; None: by tonight's."""
    encoder = load_weights((directory or workspace.directory) / "weights.safetensors")
    ordinals_N, vectors_ND = item_vectors(workspace, encoder)
    return Model(encoder, ordinals_N, vectors_ND, _published(workspace), neighbours, fusion)


def _published(workspace: Workspace) -> NDArray[np.int64]:
    """When each item of the export was published, ms; -1 where nobody says. (N,)."""
    column = pq.read_table(workspace.items, columns=["published_at_ms"])["published_at_ms"]
    times: NDArray[np.int64] = pc.fill_null(column, -1).to_numpy()
    return times


def neighbours_of(
    histories: Histories, used_E: NDArray[np.bool_], workspace: Workspace
) -> Neighbours:
    """Of the items seen in the events `used_E`."""
    ordinals_N = pq.read_table(workspace.items, columns=["ordinal"])["ordinal"].to_numpy()
    seen_E = used_E & (histories.ordinals_E != NONE)
    seen_E &= np.isin(histories.kinds_E, list(SEEN_KINDS))
    seen_E &= np.isin(histories.ordinals_E, ordinals_N)
    rows = np.flatnonzero(seen_E)
    rows = rows[np.argsort(histories.occurred_E[rows], kind="stable")]
    span = int(ordinals_N.max(initial=-1)) + 1
    return count_neighbours(histories.user_keys_E[rows], histories.ordinals_E[rows], span)


def _activity(workspace: Workspace, histories: Histories, before_hour: int) -> Activity:
    """Of all hours before that one: as the day counted them, and before the first that retention
    left, as the log tells them."""
    table = pq.read_table(workspace.activity)
    hours = table["hour"].to_numpy()
    first_hour = int(hours.min()) if len(hours) else before_hour
    hours_E = histories.at_ms_E // HOUR_MS
    weights_E = weights_of(histories.kinds_E)
    old = histories.effective_E & (histories.ordinals_E != NONE) & (weights_E > 0)
    rows = np.flatnonzero(old & (hours_E < first_hour))
    rows = rows[np.argsort(hours_E[rows], kind="stable")]
    counted = [
        *_by_hour(hours_E[rows], histories.ordinals_E[rows], weights_E[rows]),
        *_by_hour(hours, table["ordinal"].to_numpy(), table["n"].to_numpy()),
    ]
    return Activity.of_hours(counted, before_hour * HOUR_MS)


def _by_hour(
    hours_L: NDArray[np.int64], ordinals_L: NDArray[np.int64], sums_L: NDArray[np.float32]
) -> list[tuple[int, Counts]]:
    """Rows whose hours ascend, an hour at a time."""
    starts = np.flatnonzero(np.diff(hours_L, prepend=-1))
    ends = np.append(starts, len(hours_L))[1:]
    return [
        (int(hours_L[first]), (ordinals_L[first:end], sums_L[first:end]))
        for first, end in zip(starts, ends, strict=True)
    ]


def _told(fusion: Fusion) -> dict[str, float]:
    """The weights that an on-call reads in the step's log."""
    return {
        name: round(weight, 4)
        for name, weight in zip(FEATURES, fusion.lively.known, strict=True)
        if weight
    }


if __name__ == "__main__":
    main("fuse", fuse)
