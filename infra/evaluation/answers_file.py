"""What one model answered, as a file: so that a long table need not be walked twice."""

from pathlib import Path

import numpy as np

from infra.evaluation.walk import Answers
from ray_jobs.shards.atomic import whole_file

COLUMNS = ("ndcg_Q", "hit_Q", "reciprocal_Q", "lists_QK")


def write_answers(path: Path, answers: Answers, choice: str) -> None:
    """Answers and what was chosen on validation."""
    columns = {name: getattr(answers, name) for name in COLUMNS}
    seconds = np.array([answers.fit_s, answers.ask_s])
    with whole_file(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, seconds=seconds, choice=np.array(choice), **columns)


def read_answers(path: Path) -> tuple[Answers, str]:
    """What `write_answers` wrote."""
    with np.load(path, allow_pickle=False) as file:
        fit_s, ask_s = file["seconds"].tolist()
        columns = {name: file[name] for name in COLUMNS}
        return Answers(**columns, fit_s=fit_s, ask_s=ask_s), str(file["choice"])
