"""The progress bar of one model: questions answered."""

from tqdm import tqdm

from infra.evaluation.walk import Progress


def question_bar(label: str, total: int) -> Progress:
    """What is told of each answer; the bar closes itself at the last."""
    bar = tqdm(total=total, desc=label, unit="question", leave=False)

    def advance(count: int) -> None:
        bar.update(count)
        if bar.n >= total:
            bar.close()

    return advance
