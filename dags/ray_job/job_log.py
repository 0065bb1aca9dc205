"""A job's log becomes lines of the task's log, each once, whoever follows the job. Pure."""

MAX_STREAMED_CHARACTERS = 4 * 1024 * 1024


def new_lines(log: str, shown: int, is_active: bool, submission_id: str) -> tuple[list[str], int]:
    """The whole lines after the first `shown` characters (at the end: all), and the new `shown`.

    What is longer than MAX_STREAMED_CHARACTERS is left to Ray, with a line that says so.
    """
    end = log.rfind("\n") + 1 if is_active else len(log)
    end = min(end, MAX_STREAMED_CHARACTERS)
    lines = log[shown:end].splitlines()
    if end == MAX_STREAMED_CHARACTERS and shown < end:
        lines.append(f"The log goes on: ray job logs {submission_id}")
    return lines, max(shown, end)
